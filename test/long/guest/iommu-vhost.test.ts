/** vhost-net and vhost-vsock behind the machine's IOMMU: the kernel follows its mappings, also when it takes over under traffic. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { agentBinary } from '../../../src/guest/executables.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256 } from '../../support/rigs/files.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import { programPath } from '../../support/rigs/host.ts';

const HOST = '10.0.9.1';
const CID = 78;
const MOVES = 6;
const PING = `ping -c 3 -s 4000 -W 20 ${HOST}`;
const BIG = randomBytes(4 * MiB);

const vm = await bootGuest({
  image: 'tools',
  append: 'nodevmm.ip=10.0.9.2/24',
  machine: {
    memory: 512 * MiB,
    iommu: true,
    nets: [{ hostAddress: `${HOST}/24`, vhost: 'on' }],
    vsock: { cid: CID, vhost: 'on' },
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, script);
const faults = (): Promise<string> => sh('dmesg | grep -i "fault from" || true');

const server = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
t.teardown(() => server.kill());
await once(server.stdout, 'data');
server.stdout.resume();

t.test('they are behind it', async (t) => {
  t.equal(vm.datapaths.get('net0'), 'vhost');
  t.equal(vm.datapaths.get('vsock0'), 'vhost');
  const groups = await sh('ls -d /sys/kernel/iommu_groups/*/devices/* | wc -l');
  t.equal(groups.trim(), '4', 'console, entropy, network, vsock');
});

t.test('packets, of several pages, and streams both ways', async (t) => {
  t.match(await sh(PING), / 0% packet loss/);
  for (const direction of ['', '-R']) await sh(`iperf3 -J -c ${HOST} -n 4M ${direction}`);
  t.equal(await faults(), '');
});

t.test('hand-overs under traffic', async (t) => {
  for (const direction of ['', '-R']) {
    const report = sh(`iperf3 -J -c ${HOST} -t ${MOVES + 3} ${direction}`);
    for (let i = 0; i < MOVES; i++) {
      await delay(1000);
      await vm.moveDatapath('net0', i % 2 === 0 ? 'userspace' : 'vhost');
    }
    const { error, end } = JSON.parse(await report);
    t.equal(error, undefined);
    t.ok(end.sum_received.bytes > 0, `${end.sum_received.bytes} bytes ${direction}`);
  }
  t.match(await sh(PING), / 0% packet loss/);
  t.equal(await faults(), '');
});

t.test('AF_VSOCK', async (t) => {
  const listener = vm.spawn(['nodevmm-agent', 'vsock', 'listen', '52', 'sha256sum']);
  await once(listener.stdout, 'data');
  const program = spawn(agentBinary, ['vsock', 'connect', `${CID}`, '52']);
  program.stdin.end(BIG);
  const [answer] = (await once(program.stdout, 'data')) as [Buffer];
  t.match(answer.toString(), sha256(BIG));
  t.equal(await faults(), '');
});

t.test('drivers come back, and so does the guest', async (t) => {
  await sh(`d=$(ls /sys/bus/virtio/drivers/virtio_net | grep virtio)
    for round in 1 2 3; do
      echo $d >/sys/bus/virtio/drivers/virtio_net/unbind; echo $d >/sys/bus/virtio/drivers/virtio_net/bind
    done
    until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    ip addr add 10.0.9.2/24 dev eth0; ip link set eth0 up`);
  t.match(await sh(PING), / 0% packet loss/);
  t.equal(await faults(), '');
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
  t.match(await sh(PING), / 0% packet loss/);
  t.equal(await faults(), '');
});
