/** The addon's one binary runs with any C library that Node.js runs on. */
import { execFileSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';

const ADDON = path.resolve('build/Release/nodevmm.node');

/** Same name, arguments and structures in glibc and musl on x86-64. */
const LIBC = [
  '__errno_location',
  '__libc_current_sigrtmin',
  'free',
  'malloc',
  'memmove',
  'mmap',
  'munmap',
  'pthread_mutex_lock',
  'pthread_mutex_unlock',
  'sigaction',
];

/** All of Node-API 3 or older, so in every Node.js there is. */
const NODE_API = [
  'napi_add_env_cleanup_hook',
  'napi_create_int64',
  'napi_define_properties',
  'napi_get_cb_info',
  'napi_get_value_int64',
];

function undefinedSymbols(): string[] {
  const table = execFileSync('readelf', ['--dyn-syms', '--wide', ADDON], { encoding: 'utf8' });
  return table
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((columns) => columns[6] === 'UND' && columns[7] !== undefined)
    .map((columns) => columns[7] as string);
}

t.test('names no library, no version of a symbol, and only known functions', async (t) => {
  const dynamic = execFileSync('readelf', ['--dynamic', '--wide', ADDON], { encoding: 'utf8' });
  t.notMatch(dynamic, /NEEDED|RPATH|RUNPATH|TEXTREL|INIT_ARRAY/);
  const names = undefinedSymbols();
  t.equal(names.filter((name) => name.includes('@')).join(), '');
  t.same(names.sort(), [...LIBC, ...NODE_API].sort());
});

/** Stands in for Node.js: enough Node-API to register the addon and call its functions. */
const HOST = `
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef void *v; typedef v (*fn)(v, v);
struct property { const char *name; v n; fn method; v a, b, c; int attributes; v data; };
static struct property table[16]; static size_t filled; static int64_t arguments[3]; static v hook, mapping;
int napi_define_properties(v e, v o, size_t n, const struct property *p) {
  memcpy(table, p, n * sizeof *p); filled = n; return 0; }
int napi_create_int64(v e, int64_t value, v *out) { *out = (v)(intptr_t)value; return 0; }
int napi_get_cb_info(v e, v i, size_t *n, v *out, v *self, v *data) {
  for (int k = 0; k < 3; k++) out[k] = &arguments[k]; *n = 3; return 0; }
int napi_get_value_int64(v e, v value, int64_t *out) { *out = *(int64_t *)value; return 0; }
int napi_add_env_cleanup_hook(v e, v f, v data) { hook = f; mapping = data; return 0; }
static long call(const char *name, int64_t a, int64_t b, int64_t c) {
  arguments[0] = a; arguments[1] = b; arguments[2] = c;
  for (size_t k = 0; k < filled; k++) if (!strcmp(table[k].name, name)) return (long)table[k].method(0, 0);
  return -1000; }
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  v addon = dlopen(argv[1], RTLD_NOW);
  if (!addon) { puts(dlerror()); return 1; }
  v (*init)(v, v) = (v (*)(v, v))dlsym(addon, "napi_register_module_v1");
  init(0, 0);
  long kick = call("installKick", 0, 0, 0);
  printf("kick %d\\n", kick == SIGRTMIN + 4);
  raise((int)kick);
  char from[6] = "moved", to[6] = "";
  double list[3] = { (double)(uintptr_t)to, (double)(uintptr_t)from, 6 };
  call("copy", (int64_t)(uintptr_t)list, 1, 0);
  printf("copy %s\\n", to);
  char name[] = "/tmp/nodevmm-musl-XXXXXX";
  int fd = mkstemp(name); unlink(name);
  if (ftruncate(fd, 8192)) return 2;
  volatile char *m = mmap(0, 8192, 3, MAP_SHARED, fd, 0);
  long slot = call("guard", (int64_t)(uintptr_t)m, 8192, 4096);
  if (ftruncate(fd, 0)) return 2;
  m[4096] = 1;
  printf("guard %ld faults %ld byte %d\\n", slot, call("guardFaults", slot, 0, 0), m[4096]);
  call("unguard", slot, 0, 0);
  call("unmapAtExit", (int64_t)(uintptr_t)m, 8192, 0);
  ((void (*)(v))hook)(mapping);
  printf("unmapped %d\\n", msync((void *)m, 8192, MS_SYNC) != 0);
  return 0;
}
`;

for (const compiler of ['gcc', 'musl-gcc']) {
  t.test(`its functions work in a process of ${compiler}'s C library`, async (t) => {
    using folder = new TemporaryFolder('nodevmm-addon-');
    const source = path.join(folder.path, 'host.c');
    const program = path.join(folder.path, 'host');
    writeFileSync(source, HOST);
    execFileSync(compiler, ['-rdynamic', '-pthread', '-o', program, source, '-ldl']);
    const out = execFileSync(program, [ADDON], { encoding: 'utf8' });
    t.equal(out, 'kick 1\ncopy moved\nguard 0 faults 1 byte 1\nunmapped 1\n');
  });
}

t.test("the agent is musl's, also where that came after the first build", async (t) => {
  const { size } = statSync('build/Release/nodevmm-agent');
  t.ok(size < 300_000, `${size} bytes`);
});
