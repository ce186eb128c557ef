/** The network device with Linux's driver: ping and TCP both ways, queue pairs, filters. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { bootGuest } from '../support/rigs/guest.ts';
import { programPath } from '../support/rigs/host.ts';

const shapes = {
  'one queue pair, split': { cpus: 1, net: {} },
  'two queue pairs, packed': { cpus: 2, net: { queues: 2, ring: { packed: true } } },
  'without offloads and mergeable buffers': {
    cpus: 1,
    net: { offloads: false, mergeableBuffers: false, ring: { eventIdx: false, indirect: false } },
  },
} as const;

for (const [name, { cpus, net }] of Object.entries(shapes)) {
  t.test(name, async (t) => {
    const machine = { memory: 1024 * MiB, cpus, nets: [{ hostAddress: '10.0.2.1/24', ...net }] };
    await using vm = await bootGuest({ image: 'tools', machine });
    const run = async (script: string) => {
      const { stdout, stderr, exitCode } = await vm.exec(['sh', '-c', script]);
      t.equal(exitCode, 0, `${script}\n${stderr.toString()}`);
      return stdout.toString();
    };
    await run(`modprobe virtio_net
      until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
      ip addr add 10.0.2.2/24 dev eth0 && ip link set eth0 up`);
    t.match(await run('ping -c 3 10.0.2.1'), / 0% packet loss/);
    const queues = await run('ls -d /sys/class/net/eth0/queues/tx-*');
    t.equal(queues.trim().split('\n').length, cpus);

    const server = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(server.stdout, 'data');
      for (const direction of ['', '-R']) {
        const report = await run(`iperf3 -J -c 10.0.2.1 -n 4M -P ${cpus} ${direction}`);
        const { end } = JSON.parse(report) as { end: { sum_received: { bytes: number } } };
        t.ok(end.sum_received.bytes > 0, `${end.sum_received.bytes} bytes ${direction}`);
      }
    } finally {
      server.kill();
    }
    const errors = await run('cat /sys/class/net/eth0/statistics/?x_errors');
    t.match(errors, /^(0\n)+$/);
  });
}
