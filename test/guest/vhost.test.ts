/** vhost-net with Linux's driver: the kernel moves the packets, and hands them back under traffic. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { MachineOptions, VirtualMachine } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { drawingOf, stepsOf } from '../support/rigs/drawing.ts';
import { bootGuest, exitsOf } from '../support/rigs/guest.ts';
import { programPath } from '../support/rigs/host.ts';

const HOST = '10.0.2.1';
const HAND_OVERS = 10;

type Run = (script: string) => Promise<string>;

async function withNetwork(
  t: Test,
  { net, ...options }: Pick<MachineOptions, 'cpus' | 'check' | 'trace'> & { net: object },
  use: (vm: VirtualMachine, run: Run) => Promise<void>,
): Promise<void> {
  const nets = [{ hostAddress: `${HOST}/24`, ...net }];
  const machine = { memory: 512 * MiB, ...options, nets };
  await using vm = await bootGuest({ image: 'tools', machine });
  const run = async (script: string): Promise<string> => {
    const { stdout, stderr, exitCode } = await vm.exec(['sh', '-c', script]);
    t.equal(exitCode, 0, `${script}\n${stderr.toString()}${exitCode === 0 ? '' : stdout}`);
    return stdout.toString();
  };
  await run(`modprobe virtio_net
    until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    ip addr add 10.0.2.2/24 dev eth0 && ip link set eth0 up`);
  const server = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(server.stdout, 'data');
    server.stdout.resume();
    await use(vm, run);
  } finally {
    server.kill();
  }
}

interface IperfReport {
  readonly error?: string;
  readonly end: { readonly sum_received: { readonly bytes: number; readonly seconds: number } };
}

const sum = (counts: readonly number[]): number => counts.reduce((all, count) => all + count, 0);

async function packets(run: Run): Promise<number> {
  const text = await run('cat /sys/class/net/eth0/statistics/?x_packets');
  return sum(text.trim().split('\n').map(Number));
}

t.test('no exit to userspace for a packet', (t) =>
  withNetwork(t, { cpus: 1, net: { vhost: 'on' } }, async (vm, run) => {
    t.equal(vm.datapaths.get('net0'), 'vhost');
    t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
    let drawn = await drawingOf(vm, 'net0');
    t.match(stepsOf(drawn), ['rings guestKernel hostKernel: shared memory']);
    // Linux's virtio_net polls its control queue and asks for no interrupt.
    t.ok(drawn.notes.includes('The driver has no interrupt for controlq.'), drawn.notes.join(' '));
    // A snapshot leaves out what a thread on a busy host does not say in time.
    while (!drawn.notes.includes('nodevmm itself serves controlq.')) {
      drawn = await drawingOf(vm, 'net0');
    }
    for (const direction of ['', '-R']) {
      const before = { exits: await exitsOf(vm), packets: await packets(run) };
      await run(`iperf3 -J -c ${HOST} -n 64M ${direction}`);
      const moved = (await packets(run)) - before.packets;
      const exits = (await exitsOf(vm)) - before.exits;
      t.ok(moved > 1000, `${moved} packets ${direction}`);
      // What is left is the agent's console traffic, which carries the commands and their output.
      t.ok(exits / moved < 0.05, `${exits} exits for ${moved} packets ${direction}`);
    }
  }),
);

t.test('ten hand-overs under traffic, both ways', (t) =>
  withNetwork(t, { cpus: 1, net: {} }, async (vm, run) => {
    for (const direction of ['', '-R']) {
      const report = run(`iperf3 -J -c ${HOST} -t 15 ${direction}`);
      for (let i = 0; i < HAND_OVERS; i++) {
        await delay(1000);
        await vm.moveDatapath('net0', i % 2 === 0 ? 'vhost' : 'userspace');
      }
      const { error, end } = JSON.parse(await report) as IperfReport;
      t.equal(error, undefined);
      t.ok(end.sum_received.bytes > MiB, `${end.sum_received.bytes} bytes ${direction}`);
      t.ok(end.sum_received.seconds > 10, 'one connection all the time');
    }
    t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
    t.match(await run('cat /sys/class/net/eth0/statistics/?x_errors'), /^(0\n)+$/);
  }),
);

t.test('what the kernel serves, seen on copies', (t) =>
  withNetwork(
    t,
    { cpus: 1, check: true, trace: {}, net: { ring: { packed: true } } },
    async (vm, run) => {
      await t.rejects(vm.moveDatapath('net0', 'vhost'), { code: 'E_FEATURES' });
      const report = run(`iperf3 -J -c ${HOST} -t 10`);
      await delay(3000);
      await vm.moveDatapath('net0', 'vhost-shadow');
      const { error, end } = JSON.parse(await report) as IperfReport;
      t.equal(error, undefined);
      t.ok(end.sum_received.bytes > MiB, `${end.sum_received.bytes} bytes`);
      const chains = async (): Promise<number> => {
        const summary = await vm.traceSummary();
        const device = summary?.devices.findIndex(({ name }) => name === 'net0');
        const seen = summary?.queues.filter((queue) => queue.device === device) ?? [];
        return sum(seen.map((queue) => queue.chains));
      };
      const before = await chains();
      t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
      t.ok((await chains()) >= before + 6, 'requests and answers');
      await vm.holdQueue('net0', 'transmitq1');
      t.match(await run(`ping -c 1 -W 1 ${HOST} || true`), / 100% packet loss/);
      await vm.releaseQueue('net0', 'transmitq1');
      t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
      const drawn = await drawingOf(vm, 'net0');
      const steps = stepsOf(drawn);
      t.equal(steps[0], 'rings guestKernel vmm: shared memory');
      t.ok(steps.includes('data vmm hostKernel: shared memory'), steps.join('; '));
      t.same(vm.breaches, []);
      await vm.moveDatapath('net0', 'userspace');
      t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
    },
  ),
);

t.test('queue pairs, a pause, and a driver that comes back', (t) =>
  withNetwork(t, { cpus: 2, net: { vhost: 'on', queues: 2 } }, async (vm, run) => {
    const tap = await run('ls -d /sys/class/net/eth0/queues/tx-*');
    t.equal(tap.trim().split('\n').length, 2);
    await run(`iperf3 -J -P 4 -c ${HOST} -n 16M`);
    const pinging = run(`ping -c 4 ${HOST}`);
    await vm.pause();
    await delay(500);
    await vm.resume();
    t.match(await pinging, / 0% packet loss/);
    await run(`modprobe -r virtio_net && modprobe virtio_net
      until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
      ip addr add 10.0.2.2/24 dev eth0 && ip link set eth0 up`);
    t.match(await run(`ping -c 3 ${HOST}`), / 0% packet loss/);
    t.equal(vm.datapaths.get('net0'), 'vhost');
  }),
);
