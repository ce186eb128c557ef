/** The emulated 82540EM with Linux's own driver, and what its registers cost, compared with virtio. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import type { VirtualMachine } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';
import { programPath } from '../support/rigs/host.ts';

const PINGS = 50;
const CARD = { host: '10.0.2.1', guest: '10.0.2.2' };
const VIRTIO = { host: '10.0.3.1', guest: '10.0.3.2' };

/** A shell function that prints the interface that a driver has. */
const INTERFACE_OF = `interface_of() {
  until for at in /sys/class/net/*; do
    driver=$(readlink $at/device/driver) || continue
    [ "\${driver##*/}" = $1 ] && echo \${at##*/} && break
  done | grep .; do sleep 0.1; done
}
`;

/** Exits to user space for ports and memory. */
async function accessExits(vm: VirtualMachine): Promise<number> {
  const { exits } = await vm.metrics();
  return (exits.KVM_EXIT_IO ?? 0) + (exits.KVM_EXIT_MMIO ?? 0);
}

async function exitsPerPing(vm: VirtualMachine, host: string): Promise<number> {
  const before = await accessExits(vm);
  const output = await guestShell(vm, `ping -q -c ${PINGS} -i 0.02 ${host}`);
  const spent = (await accessExits(vm)) - before;
  if (!/ 0% packet loss/.test(output)) throw new Error(output);
  return spent / PINGS;
}

t.test('an emulated card and a virtio device in one guest', async (t) => {
  await using vm = await bootGuest({
    kernel: '6.12-amd64',
    image: 'tools',
    machine: {
      memory: 1024 * MiB,
      nets: [
        { model: 'e1000', mac: '52:54:00:12:34:56', hostAddress: `${CARD.host}/24`, mtu: 9000 },
        { hostAddress: `${VIRTIO.host}/24` },
      ],
    },
  });
  const log: string[] = [];
  vm.on('log', (line) => log.push(line));
  const run = (script: string) => guestShell(vm, INTERFACE_OF + script);
  const card = await run('interface_of e1000');
  await run(`ip addr add ${CARD.guest}/24 dev ${card} && ip link set ${card} up
    virtio=$(interface_of virtio_net)
    ip addr add ${VIRTIO.guest}/24 dev $virtio && ip link set $virtio up`);

  await t.test('what the guest sees', async (t) => {
    t.match(await run('lspci'), /Ethernet controller: Intel Corporation 82540EM/);
    t.match(await run(`ethtool -i ${card}`), /driver: e1000/);
    t.equal(await run(`cat /sys/class/net/${card}/address`), '52:54:00:12:34:56');
    await run(`until [ "$(cat /sys/class/net/${card}/carrier)" = 1 ]; do sleep 0.1; done`);
    t.match(await run(`ethtool ${card}`), /Speed: 1000Mb\/s\s+Duplex: Full/);
    t.match(await run(`ethtool -e ${card} length 6`), /52 54 00 12 34 56/);
  });

  await t.test('ping', async (t) => {
    t.match(await run(`ping -c 3 ${CARD.host}`), / 0% packet loss/);
  });

  await t.test('TCP both ways', async (t) => {
    const server = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(server.stdout, 'data');
      for (const direction of ['', '-R']) {
        const report = await run(`iperf3 -J -c ${CARD.host} -n 2M ${direction}`);
        const { end } = JSON.parse(report) as { end: { sum_received: { bytes: number } } };
        t.ok(end.sum_received.bytes > 0, `${end.sum_received.bytes} bytes ${direction}`);
      }
    } finally {
      server.kill();
    }
    t.match(await run(`cat /sys/class/net/${card}/statistics/?x_errors`), /^(0\n?)+$/);
    const statistics = await run(`ethtool -S ${card}`);
    t.match(statistics, /tx_tcp_seg_good: [1-9]/, 'the hardware cut some of it');
    t.match(statistics, /rx_csum_offload_errors: 0\n/);
  });

  await t.test('each register access is an exit', async (t) => {
    const emulated = await exitsPerPing(vm, CARD.host);
    const virtio = await exitsPerPing(vm, VIRTIO.host);
    t.comment(`exits a ping: ${emulated} with e1000, ${virtio} with virtio`);
    // A tail register, and an interrupt's cause, mask and flushes.
    t.ok(emulated >= 5, 'e1000');
    // The card in the same guest is not wholly silent meanwhile.
    t.ok(virtio < emulated / 4, 'virtio');
  });

  await t.test('jumbo packets', async (t) => {
    await run(`ip link set ${card} mtu 9000`);
    t.match(await run(`ping -c 3 -s 8900 ${CARD.host}`), / 0% packet loss/);
  });

  await t.test('after a pause, and with the driver reloaded', async (t) => {
    await vm.pause();
    await vm.resume();
    t.match(await run(`ping -c 2 ${CARD.host}`), / 0% packet loss/);
    await run(`modprobe -r e1000 && modprobe e1000
      card=$(interface_of e1000)
      ip addr add ${CARD.guest}/24 dev $card && ip link set $card up`);
    t.match(await run(`ping -c 2 ${CARD.host}`), / 0% packet loss/);
  });
  t.same(log, [], 'nothing broke');
});

t.test('a card that its driver breaks', async (t) => {
  await using vm = await bootGuest({
    kernel: '6.12-amd64',
    image: 'tools',
    // So that another than the driver may touch its registers.
    append: 'iomem=relaxed',
    machine: { nets: [{ model: 'e1000', hostAddress: `${CARD.host}/24` }] },
  });
  const run = (script: string) => guestShell(vm, INTERFACE_OF + script);
  const logged = new Promise<string>((resolve) => vm.once('log', resolve));
  const up = `card=$(interface_of e1000)
    ip addr add ${CARD.guest}/24 dev $card && ip link set $card up`;
  await run(up);
  t.match(await run(`ping -c 2 ${CARD.host}`), / 0% packet loss/);
  // Behind the driver's back: TDBAH, so that the ring is nowhere, and TDT, to have it looked at.
  const bar = await run(`set -- $(cat $(readlink -f /sys/class/net/*/device/resource | head -1))
    echo $1`);
  const at = (offset: number): string => `0x${(Number(bar) + offset).toString(16)}`;
  await run(`devmem ${at(0x3804)} 32 0x7fffffff; devmem ${at(0x3818)} 32 1`);
  t.match(await logged, /^net0: stopped: .*not in RAM/);
  await run(`modprobe -r e1000 && modprobe e1000; ${up}`);
  t.match(await run(`ping -c 2 ${CARD.host}`), / 0% packet loss/, 'and its reset revives');
  await vm.exec(['reboot', '-f']).catch(() => {});
  await new Promise<void>((resolve) => vm.once('reboot', resolve));
  await vm.ready();
  await run(up);
  t.match(await run(`ping -c 2 ${CARD.host}`), / 0% packet loss/, 'and it outlives a reboot');
});
