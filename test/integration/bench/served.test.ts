/** A subject with a backend: two processes that start, are counted and end together. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { readProcesses } from '../../../bench/groups/costs.ts';
import { served } from '../../../bench/subjects/served.ts';
import type { GuestSpec, RunningGuest, Subject } from '../../../bench/subjects/subject.ts';

/** `serve net` takes a network in memory as well, for which nobody has to be root. */
const SPEC: GuestSpec = { kernel: '/k', initrd: '/i', memoryMiB: 512, tap: 'backend=sink' };

/** A VMM that does nothing, and what was done with it. */
function lone(fails = false): { subject: Subject; log: string[]; specs: GuestSpec[] } {
  const log: string[] = [];
  const specs: GuestSpec[] = [];
  const guest: RunningGuest = {
    pid: process.pid,
    async exec(argv) {
      log.push(argv.join(' '));
      return { stdout: Buffer.from('said'), stderr: Buffer.alloc(0), exitCode: 0 };
    },
    async [Symbol.asyncDispose]() {
      log.push('ended');
    },
  };
  const boot = async (spec: GuestSpec): Promise<RunningGuest> => {
    specs.push(spec);
    if (fails) throw new Error('no guest today');
    return guest;
  };
  return { subject: { name: 'lone', reference: false, boot }, log, specs };
}

/** One letter of proc_pid_stat(5), or undefined without such a process. */
function stateOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat[stat.lastIndexOf(')') + 2];
  } catch {
    return undefined;
  }
}

t.test('the guest has the socket in place of the tap, and both processes end', async (t) => {
  const { subject, log, specs } = lone();
  const guest = await served(subject, 'poll=off').boot(SPEC);
  const socket = specs[0]?.vhostUser ?? '';
  t.notOk('tap' in (specs[0] ?? {}));
  t.ok(existsSync(socket));
  const [backend = 0] = guest.backends ?? [];
  const command = readFileSync(`/proc/${backend}/cmdline`, 'latin1').split('\0');
  t.match(command.slice(2, -1), ['serve', 'net', 'backend=sink,poll=off', '--socket', socket]);
  t.equal((await guest.exec(['x'])).stdout.toString(), 'said');
  await guest[Symbol.asyncDispose]();
  t.same(log, ['x', 'ended']);
  t.equal(stateOf(backend), undefined);
  t.notOk(existsSync(path.dirname(socket)));
});

t.test('a guest that does not come up, and a backend that cannot serve', async (t) => {
  const { subject, specs } = lone(true);
  await t.rejects(served(subject).boot(SPEC), /no guest today/);
  t.notOk(existsSync(specs[0]?.vhostUser ?? ''));
  const wrong = { ...SPEC, tap: 'backend=nothing' };
  await t.rejects(served(subject).boot(wrong), /ended with status 2.*backend/s);
  t.equal(specs.length, 1, 'no guest without its network');
});

t.test('a backend that dies fails the command', async (t) => {
  const { subject } = lone();
  const never: Subject = {
    ...subject,
    boot: async (spec) => ({ ...(await subject.boot(spec)), exec: () => new Promise(() => {}) }),
  };
  const guest = await served(never).boot(SPEC);
  const run = guest.exec(['iperf3']);
  process.kill(guest.backends?.[0] ?? 0, 'SIGKILL');
  await t.rejects(run, /ended with SIGKILL/);
  await guest[Symbol.asyncDispose]();
});

t.test('CPU time is that of all processes', async (t) => {
  const { subject } = lone();
  const guest = await served(subject).boot(SPEC);
  const backend = readProcesses({ pid: guest.backends?.[0] ?? 0 });
  const own = readProcesses({ pid: process.pid });
  t.same(own.exits, Number.NaN, 'no VM');
  const both = readProcesses(guest);
  t.ok(backend.cpuSeconds > 0, 'it took some to start');
  t.ok(both.cpuSeconds >= own.cpuSeconds + backend.cpuSeconds);
  await guest[Symbol.asyncDispose]();
  t.same(readProcesses(guest).cpuSeconds, Number.NaN, 'one has ended');
});
