/** A subject with a backend: two processes that start, rest, are counted and end together. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { awake } from '../../../bench/groups/group.ts';
import { readUsage } from '../../../bench/harness/usage.ts';
import { type Polling, serveCommand, served } from '../../../bench/subjects/served.ts';
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

/** Signals arrive when they do. */
async function becomes(isSo: () => boolean): Promise<boolean> {
  for (let i = 0; i < 500 && !isSo(); i++) await delay(20);
  return isSo();
}

t.test('command lines', (t) => {
  const flags = (polling: Polling): string =>
    serveCommand('tap7', polling, '/s').slice(2).join(' ');
  t.equal(flags('adaptive'), 'serve net tap7 --socket /s');
  t.equal(flags('never'), 'serve net tap7 --socket /s --no-poll');
  t.equal(flags('always'), 'serve net tap7 --socket /s --poll');
  t.end();
});

t.test('the guest has the socket in place of the tap, and both processes end', async (t) => {
  const { subject, log, specs } = lone();
  const guest = await served(subject, 'adaptive').boot(SPEC);
  const socket = specs[0]?.vhostUser ?? '';
  t.notOk('tap' in (specs[0] ?? {}));
  t.ok(existsSync(socket));
  const [backend = 0] = guest.backends ?? [];
  t.match(readFileSync(`/proc/${backend}/cmdline`, 'latin1'), 'serve');
  t.equal((await guest.exec(['x'])).stdout.toString(), 'said');
  t.equal(guest.rest, undefined, 'asleep by itself');
  await guest[Symbol.asyncDispose]();
  t.same(log, ['x', 'ended']);
  t.equal(stateOf(backend), undefined);
  t.notOk(existsSync(path.dirname(socket)));
});

t.test('a backend that polls is stopped but for its own samples', async (t) => {
  const { subject, log } = lone();
  const guest = await served(subject, 'always').boot(SPEC);
  const [backend = 0] = guest.backends ?? [];
  const member = { name: 'lone', reference: false, guest };
  await guest.rest?.(true);
  t.ok(await becomes(() => stateOf(backend) === 'T'));
  const taken = awake(member, async () => {
    t.ok(await becomes(() => stateOf(backend) !== 'T'));
    log.push('taken');
    throw new Error('a sample that fails');
  });
  await t.rejects(taken, /sample that fails/);
  t.ok(await becomes(() => stateOf(backend) === 'T'));
  const link = 'ip link set eth0';
  t.same(log, [`${link} down`, `${link} up`, 'taken', `${link} down`]);
  await guest[Symbol.asyncDispose]();
  t.equal(stateOf(backend), undefined, 'also a stopped one ends');
});

t.test('a guest that does not come up, and a backend that cannot serve', async (t) => {
  const { subject, specs } = lone(true);
  await t.rejects(served(subject, 'adaptive').boot(SPEC), /no guest today/);
  t.notOk(existsSync(specs[0]?.vhostUser ?? ''));
  const wrong = { ...SPEC, tap: 'backend=nothing' };
  await t.rejects(served(subject, 'adaptive').boot(wrong), /ended with status 2.*backend/s);
  t.equal(specs.length, 1, 'no guest without its network');
});

t.test('a backend that dies fails the command', async (t) => {
  const { subject } = lone();
  const never: Subject = {
    ...subject,
    boot: async (spec) => ({ ...(await subject.boot(spec)), exec: () => new Promise(() => {}) }),
  };
  const guest = await served(never, 'adaptive').boot(SPEC);
  const run = guest.exec(['iperf3']);
  process.kill(guest.backends?.[0] ?? 0, 'SIGKILL');
  await t.rejects(run, /ended with SIGKILL/);
  await guest[Symbol.asyncDispose]();
});

t.test('CPU time is that of all processes, by name', async (t) => {
  const { subject } = lone();
  const guest = await served(subject, 'always').boot(SPEC);
  const { threads } = await readUsage(guest);
  const [backend = 0] = guest.backends ?? [];
  const own = await readUsage({ pid: process.pid });
  t.ok([...(own.threads?.keys() ?? [])].every((name) => threads?.has(name)));
  const main = `backend ${readFileSync(`/proc/${backend}/comm`, 'latin1').trim()}`;
  t.ok((threads?.get(main) ?? 0) > 0, 'it took some to start');
  t.notOk(own.threads?.has(main));
  await guest[Symbol.asyncDispose]();
  t.equal((await readUsage(guest)).threads, undefined, 'one has ended');
});

t.test('without debugfs, a VMM tells itself what KVM counts', async (t) => {
  const statistics = async () =>
    new Map([
      ['exits', 5],
      ['pf_taken', 1],
    ]);
  const { kvm } = await readUsage({ pid: process.pid, statistics });
  t.same([...kvm], [['exits', 5]]);
  t.equal((await readUsage({ pid: process.pid })).kvm.size, 0);
});
