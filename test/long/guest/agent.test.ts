/** The agent in a real guest: it outlives the end of the memory, and another kernel by kexec. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { buildGuest } from '../../../src/guest/guests.ts';
import type { VirtualMachine } from '../../../src/index.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';

t.test('out of memory: the command dies, the agent does not', async (t) => {
  await using vm = await bootGuest({ machine: { memory: 192 * 2 ** 20 } });
  const script = 'cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj; pidof nodevmm-agent';
  const before = await guestShell(vm, script);
  t.match(before, /^0\n-1000\n/);
  // Small pieces, each touched as it is taken.
  const hungry = await vm.exec(['sh', '-c', 'yes | sort >/dev/null']);
  t.equal(hungry.exitCode, 137);
  t.equal(await guestShell(vm, script), before);
});

/** Loads a kernel and starts it: kexec_file_load(2), reboot(2). */
const KEXEC = `
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int kernel = open(argv[1], O_RDONLY), initrd = open(argv[2], O_RDONLY);
	if (argc != 4 || syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 0L) < 0) {
		perror("kexec_file_load");
		return 1;
	}
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	perror("reboot");
	return 1;
}
`;

function kexecProgram(): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'nodevmm-kexec-'));
  try {
    const program = join(folder, 'kexec');
    writeFileSync(`${program}.c`, KEXEC);
    const built = spawnSync('cc', ['-static', '-s', '-o', program, `${program}.c`]);
    if (built.status !== 0) throw new Error(String(built.stderr));
    return readFileSync(program);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function put(vm: VirtualMachine, path: string, bytes: Buffer): Promise<void> {
  const { exitCode } = await vm.exec(['sh', '-c', `cat >${path}; chmod +x ${path}`], {
    input: bytes,
  });
  if (exitCode !== 0) throw new Error(`cannot write ${path}`);
}

t.test('a guest that starts another kernel by kexec: commands run in that one', async (t) => {
  const guest = await buildGuest('minimal');
  await using vm = await bootGuest({ machine: { memory: 512 * 2 ** 20 } });
  await put(vm, '/kexec', kexecProgram());
  await put(vm, '/vmlinuz', readFileSync(guest.kernel));
  await put(vm, '/initrd', readFileSync(guest.initrd));
  const commandLine = `${await guestShell(vm, 'cat /proc/cmdline')} nodevmm.again=1`;
  await t.rejects(vm.exec(['/kexec', '/vmlinuz', '/initrd', commandLine]), {
    code: /^E_AGENT_(RESTARTED|GONE)$/,
  });
  t.match(await guestShell(vm, 'cat /proc/cmdline'), /nodevmm\.again=1/);
  t.equal(await guestShell(vm, 'ls /kexec 2>/dev/null || echo fresh'), 'fresh');
});
