/**
 * vDPA parents besides nodevmm's own: the kernel's simulators of a disk and a network interface, and virtio devices of the lab behind
 * its IOMMU, as a card's would be. Debian compiles none of them: the first run downloads the kernel's sources, 150 MB, and compiles for
 * about 20 s of CPU; later ones find the modules in the cache.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import t from 'tap';
import { vdpaParents } from '../../../bench/peers/vdpa-parents.ts';
import { buildGuest } from '../../../src/guest/guests.ts';
import { programPath } from '../../support/rigs/host.ts';
import { CARD, VfioLab } from '../../support/rigs/vfio-lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(1_800_000);

/** Addresses of further devices in the lab. */
const DISK = '0000:00:14.0';
const RNG = '0000:00:15.0';
const MODERN = 'disable-legacy=on,iommu_platform=on,ats=on';

const { kernelVersion } = await buildGuest('lab');
const started = performance.now();
const modules = await vdpaParents(kernelVersion);
t.comment(`sources and modules: ${((performance.now() - started) / 1000).toFixed(1)} s`);
const lab = await VfioLab.boot([
  ...['-drive', 'driver=null-co,size=64M,read-zeroes=on,if=none,id=null'],
  ...['-device', `virtio-blk-pci,drive=null,${MODERN},page-per-vq=on,addr=0x14`],
  ...['-device', `virtio-rng-pci,${MODERN},addr=0x15`],
]);
t.teardown(() => lab.close());

const run = (device: string, ...more: readonly string[]): ReturnType<VfioLab['run']> =>
  lab.run(...device.split(' '), ...more, '--', 'true');
/** Names of the vDPA devices that there are. */
const devices = (): Promise<string> => lab.sh('ls /sys/bus/vdpa/devices');
const FIO =
  'fio --name=v --filename=/dev/vda --size=4m --rw=randwrite --bs=16k --direct=1 --ioengine=libaio --iodepth=8 ' +
  "--verify=crc32c --output-format=terse | cut -d ';' -f 5";

t.test('without vhost_vdpa', async (t) => {
  for (const vdpa of ['/dev/vhost-vdpa-0', 'auto,mgmtdev=vdpasim_blk']) {
    const { stderr, exitCode } = await run(`--disk vdpa=${vdpa}`);
    t.match(stderr.toString(), /^nodevmm: .* no vhost_vdpa; load it with "modprobe vhost_vdpa"\n$/);
    t.equal(exitCode, 2);
  }
  const { stdout } = await lab.nodevmm(['doctor']);
  t.match(stdout.toString(), /missing +vDPA +no driver vhost_vdpa/);
  await lab.sh('/run/nodevmm/busybox modprobe -a vhost_vdpa vhost_iotlb');
  for (const module of modules) await lab.sh(`/run/nodevmm/busybox insmod ${module}`);
});

t.test('the simulators: a disk, a loop, a pause', async (t) => {
  const found = await lab.steps(`
const nets = [{ vdpa: 'auto', mgmtdev: 'vdpasim_net', name: 'loop' }];
const { vm, sh } = await boot([], '', { disks: [{ vdpa: 'auto', mgmtdev: 'vdpasim_blk' }], nets });
report('devices', host('ls /sys/bus/vdpa/devices | wc -l'));
const { code, message } = await VirtualMachine.create({ guest: 'minimal', nets }).catch((error) => error);
report('twice', code + ' ' + message);
report('fio', await sh(${JSON.stringify(FIO)}));
await sh('dd if=/dev/urandom of=/tmp/f bs=64k count=32; dd if=/tmp/f of=/dev/vda bs=64k oflag=direct');
const reading = sh('for i in 1 2 3 4; do dd if=/dev/vda bs=4k count=512 iflag=direct | cmp - /tmp/f; done; echo same');
for (let i = 0; i < 3; i++) {
  await vm.pause();
  await vm.resume();
}
report('read', await reading);
await sh('dd if=/tmp/f of=/dev/vda bs=64k seek=64 oflag=direct');
report('after', await sh('dd if=/dev/vda bs=64k skip=64 count=32 iflag=direct | cmp - /tmp/f; echo same'));
// The control queue sets the address; what is sent to it comes back.
const counted = 'cat /sys/class/net/eth0/statistics/rx_packets';
await sh('ip link set eth0 address 52:54:00:12:34:56 up; ip address add 10.9.0.1/24 dev eth0');
await sh('ip neighbor add 10.9.0.2 lladdr 52:54:00:12:34:56 dev eth0');
const before = Number(await sh(counted));
await sh('ping -c 5 -i 0.2 -W 1 10.9.0.2 || true');
report('looped', Number(await sh(counted)) - before >= 5);
await vm.close();
`);
  t.equal(found.get('devices'), '2');
  t.match(found.get('twice'), /^E_VDPA this host has a vDPA device loop already/);
  t.equal(found.get('fio'), '0', 'no error');
  t.match(found.get('read'), /same$/);
  t.match(found.get('after'), /same$/);
  t.equal(found.get('looped'), 'true');
  t.equal(found.get('log'), undefined);
  t.equal(await devices(), '', 'nothing is left');
});

t.test('whatever ends nodevmm', async (t) => {
  for (const signals of ['TERM', 'INT INT', 'KILL']) {
    const child = lab.start(
      ...['--disk', 'vdpa=auto,mgmtdev=vdpasim_blk,name=made'],
      ...['--name', 'signalled', '--', 'sleep', '600'],
    );
    const hasDisk = ['vm', '--vm', 'signalled', 'exec', '--', 'test', '-b', '/dev/vda'];
    while ((await lab.nodevmm(hasDisk)).exitCode !== 0);
    t.equal(await devices(), 'made');
    for (const signal of signals.split(' ')) child.kill(`SIG${signal}` as NodeJS.Signals);
    await child.exit;
    if (signals === 'KILL') {
      t.equal(await devices(), 'made', 'nobody is left to remove it');
      await lab.sh('vdpa dev del made');
    }
    // The second signal ends nodevmm at once: the kernel removes the device when it is closed.
    await lab.sh('while [ -e /sys/bus/vdpa/devices/made ]; do :; done');
    t.equal(await devices(), '', signals);
  }
});

t.test('what is refused, in one line', async (t) => {
  await lab.sh('vdpa dev add name there mgmtdev vdpasim_blk');
  const file = `/dev/${await lab.sh('ls /sys/bus/vdpa/devices/there | grep vhost-vdpa')}`;
  const cases: readonly (readonly [string, RegExp])[] = [
    [`--net vdpa=${file}`, /is not a network interface, but a device of type 2; use it/],
    ['--net vdpa=auto,mgmtdev=vdpasim_blk', /is not a network interface, but a device of type 2/],
    [`--disk vdpa=${file}9`, /this host has no .*9; see "vdpa dev show"/],
    ['--disk vdpa=/dev/null', /\/dev\/null is not a vhost-vdpa device/],
    [
      '--disk vdpa=auto,mgmtdev=pci/0000:7f:00.0',
      /no management device pci\/0000:7f:00.0 for vDPA/,
    ],
    ['--disk vdpa=auto,mgmtdev=vdpasim_blk,name=there', /has a vDPA device there already; remove/],
  ];
  for (const [device, message] of cases) {
    const { stderr, exitCode } = await run(device);
    t.match(stderr.toString(), message);
    t.equal(stderr.toString().trim().split('\n').length, 1, device);
    t.equal(exitCode, 2);
    t.equal(await devices(), 'there');
  }
  await lab.sh('vdpa dev del there');
});

/** Makes virtio devices of the lab vDPA devices to be. */
async function bindHardware(): Promise<void> {
  for (const address of [CARD, DISK, RNG]) {
    const device = `/sys/bus/pci/devices/${address}`;
    await lab.sh(`echo vp-vdpa >${device}/driver_override
      if [ -e ${device}/driver ]; then echo ${address} >${device}/driver/unbind; fi
      echo ${address} >/sys/bus/pci/drivers/vp-vdpa/bind`);
  }
}

/** A server of iperf3 on this host, for one client: QEMU leads the card's connections here. @returns its port */
async function serveIperf(): Promise<number> {
  const socket = createServer().listen(0, '127.0.0.1');
  await once(socket, 'listening');
  const address = socket.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  socket.close();
  const server = spawn(programPath('iperf3'), [
    '-s',
    '-1',
    '-B',
    '127.0.0.1',
    '-p',
    String(port),
    '--forceflush',
  ]);
  t.teardown(() => server.kill());
  server.stderr.resume();
  // It says so once it listens.
  await once(server.stdout, 'data');
  server.stdout.resume();
  return port;
}

t.test('hardware: a card with its control queue, a disk, an entropy source', async (t) => {
  await bindHardware();
  await lab.sh('echo 192 >/proc/sys/vm/nr_hugepages');
  const port = await serveIperf();
  const found = await lab.steps(`
const free = () => host("sed -n 's/HugePages_Free: *//p' /proc/meminfo");
const auto = (address) => ({ vdpa: 'auto', mgmtdev: 'pci/' + address });
const served = { nets: [auto('${CARD}')], disks: [auto('${DISK}')], devices: [auto('${RNG}')] };
const { vm, sh } = await boot([], '', { ...served, rng: false });
report('ping', await sh(PING));
report('huge pages', free());
await sh('ip link set eth0 address 52:54:00:12:34:99');
await sh('ip link set eth0 promisc on');
report('link', await sh('ip link show eth0'));
report('ping after', await sh('ping -c 2 -W 20 10.0.2.2'));
report('iperf3', await sh('iperf3 -c 10.0.2.2 -p ${port} -t 3 --json'));
report('disk', await sh('dd if=/dev/zero of=/dev/vda bs=64k count=64 oflag=direct; dd if=/dev/vda bs=64k count=64 iflag=direct | wc -c'));
const exits = async () => (await vm.metrics()).kvm.io_exits;
const before = await exits();
await sh('dd if=/dev/vda bs=4k count=512 iflag=direct of=/dev/null');
report('exits', (await exits()) - before);
const { devices } = await vm.inspect();
report('notified', devices.filter(({ name }) => /^(net|blk)/.test(name)).map(({ name, notify }) => name + ' ' + notify[0].by).sort());
report('entropy', await sh('dd if=/dev/hwrng bs=16 count=1 | wc -c'));
await vm.close();
report('free', free());
`);
  t.equal(found.get('huge pages'), '0', 'all guest RAM');
  t.match(found.get('ping'), / 0% packet loss/);
  t.match(found.get('link'), /PROMISC.*52:54:00:12:34:99/s);
  t.match(found.get('ping after'), / 0% packet loss/);
  const { end } = JSON.parse(found.get('iperf3') ?? '{}');
  t.ok(end.sum_received.bytes > 0);
  t.match(found.get('disk'), /4194304/);
  t.match(found.get('entropy'), /16/);
  t.equal(
    found.get('notified'),
    'blk0 hardware,net0 ioeventfd',
    'the disk has a page for each queue',
  );
  t.ok(Number(found.get('exits')) < 256, `no exit for each of 512 requests: ${found.get('exits')}`);
  t.equal(found.get('free'), '192');
  t.equal(found.get('log'), undefined);
  t.equal(await devices(), '');
});

t.test('hardware: what it needs', async (t) => {
  await lab.sh(`vdpa dev add name hw mgmtdev pci/${CARD}`);
  const file = `/dev/${await lab.sh('ls /sys/bus/vdpa/devices/hw | grep vhost-vdpa')}`;
  const doctor = async (): Promise<string> => (await lab.nodevmm(['doctor'])).stdout.toString();
  t.match(await doctor(), /ok +vDPA +devices: hw/);
  await lab.sh('echo 0 >/proc/sys/vm/nr_hugepages');
  t.match(await doctor(), /limited +vDPA.*get it: sysctl vm\.nr_hugepages=512, as root/s);
  const args = ['run', '--no-lab', '--guest', 'tools', '--net', `vdpa=${file}`, '--', 'true'];
  const limited = ['sh', '-c', 'ulimit -l 65536; exec "$@"', 'sh'];
  const { stderr, exitCode } = await lab.nodevmm(args, limited);
  t.match(
    stderr.toString(),
    /^nodevmm: net0 needs all 512 MiB of guest RAM locked, but the limit is 64 MiB; [^\n]*\n$/,
  );
  t.equal(exitCode, 2);
  const found = await lab.steps(`
const { vm, sh } = await boot([], '', { nets: [{ vdpa: '${file}' }] });
report('ping', await sh(PING));
await vm.close();
`);
  t.match(found.get('ping'), / 0% packet loss/, 'without reserved huge pages');
  t.equal(found.get('log'), undefined);
});
