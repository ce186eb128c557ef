/**
 * Shared folders with Linux's driver, three in one guest: one served by this process, one that is
 * read-only on virtio-mmio, and one of `nodevmm serve fs` over vhost-user.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { bootGuest } from '../support/guest.ts';
import { guestShell } from '../support/guest-shell.ts';

const PROGRAM = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const ENTRIES = 700;

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-fs-'));
const children: ChildProcess[] = [];
t.teardown(async () => {
  for (const child of children) {
    const exited = child.exitCode ?? once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
  }
  rmSync(folder, { recursive: true });
});
const at = (...names: string[]): string => path.join(folder, ...names);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const random = randomBytes(3 * MiB + 123);
for (const name of ['own', 'fixed', 'served']) {
  mkdirSync(at(name, 'folder'), { recursive: true });
  writeFileSync(at(name, 'from-host'), random);
  symlinkSync('from-host', at(name, 'link'));
}
// Where a way out would lead.
writeFileSync(at('secret'), 'secret');
symlinkSync('../secret', at('own', 'way-out'));
mkdirSync(at('own', 'many'));
for (let i = 0; i < ENTRIES; i++) writeFileSync(at('own', 'many', `entry number ${i}`), `${i}`);

const complaints: string[] = [];
const socket = at('fs.sock');
const backEnd = spawn(
  process.execPath,
  [PROGRAM, 'serve', 'fs', `${at('served')},queues=2`, '--socket', socket],
  { stdio: ['ignore', 'ignore', 'pipe'] },
);
children.push(backEnd);
backEnd.stderr.on('data', (chunk: Buffer) => complaints.push(String(chunk)));
while (!existsSync(socket) && backEnd.exitCode === null) await delay(20);

const vm = await bootGuest({
  image: 'tools',
  machine: {
    fileSystems: [
      { tag: 'own', source: at('own'), queues: 2 },
      { tag: 'fixed', source: at('fixed'), readOnly: true, transport: 'mmio' },
    ],
    vhostUser: [{ type: 'fs', socket, tag: 'served' }],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
vm.on('log', (line) => complaints.push(line));
const sh = (script: string): Promise<string> => guestShell(vm, script);
const mount = (tag: string): Promise<string> =>
  sh(`mkdir -p /${tag}; mount -t virtiofs ${tag} /${tag}`);

await sh('modprobe virtiofs || true');
for (const tag of ['own', 'fixed', 'served']) {
  t.test(`${tag}: data both ways, names, attributes`, async (t) => {
    await mount(tag);
    t.equal((await sh(`sha256sum < /${tag}/from-host`)).slice(0, 64), sha256(random));
    t.equal((await sh(`sha256sum < /${tag}/link`)).slice(0, 64), sha256(random));
    if (tag === 'fixed') return;
    await sh(`cd /${tag}
      cp from-host folder/copy
      ln -s copy folder/symlink
      ln folder/copy folder/hard
      mkdir folder/sub; mv folder/hard folder/sub/moved
      chmod 4751 folder/copy
      chown 12:34 folder/sub/moved
      touch -d @1234567890 folder/sub
      mkfifo folder/fifo
      : > gone; rm gone; rmdir folder/sub 2>/dev/null && exit 1 || true`);
    t.equal(sha256(readFileSync(at(tag, 'folder', 'copy'))), sha256(random));
    t.equal(readlinkSync(at(tag, 'folder', 'symlink')), 'copy');
    const moved = statSync(at(tag, 'folder', 'sub', 'moved'));
    t.same([moved.nlink, moved.uid, moved.gid], [2, 12, 34]);
    t.equal(statSync(at(tag, 'folder', 'sub')).mtimeMs, 1234567890_000);
    t.ok(lstatSync(at(tag, 'folder', 'fifo')).isFIFO());
    t.same(readdirSync(at(tag)).includes('gone'), false);
  });
}
