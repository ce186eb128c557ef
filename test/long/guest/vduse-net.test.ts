/** A network device of `nodevmm serve --vduse`: the lab's own interface by virtio_vdpa, and a guest's by vhost-vdpa. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256 } from '../../support/rigs/files.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import { programPath } from '../../support/rigs/host.ts';
import { serveParent } from '../../support/rigs/vdpa.ts';
import { loadModules, run, serveOnHost } from '../../support/rigs/vduse.ts';

t.setTimeout(900_000);
const NAME = 'test-net';
const HOST = '10.98.0.1';
const PEER = '10.98.0.2';
const PORT = 7007;
const NAMESPACE = 'vduse-net';
const BUSYBOX = '/run/nodevmm/busybox';
const deviceOf = (format: string): string =>
  `auto,address=${HOST}/24,packed=${format === 'packed' ? 'on' : 'off'}`;

const echo = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => {});
  socket.pipe(socket);
});
t.teardown(() => echo.close());
await new Promise<void>((resolve) => {
  echo.listen(PORT, '0.0.0.0', resolve);
});
const iperf = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
t.teardown(() => iperf.kill());
await once(iperf.stdout, 'data');
iperf.stdout.resume();

type Shell = (script: string) => Promise<string>;

/** From behind the device: pings the host, transfers both ways, and sends a file that comes back. */
async function exchanges(t: Test, sh: Shell, file: string, hash: string): Promise<void> {
  t.match(await sh(`ping -c 3 ${HOST}`), / 0% packet loss/);
  t.match(await sh(`iperf3 -c ${HOST} -n 8M`), /receiver/);
  t.match(await sh(`iperf3 -R -c ${HOST} -n 8M`), /receiver/);
  t.equal(await sh(`nc ${HOST} ${PORT} <${file} | sha256sum`), `${hash}  -`);
}

loadModules('vduse', 'virtio_vdpa', 'virtio_net', 'tun');

for (const format of ['split', 'packed']) {
  t.test(`the lab's own interface (${format})`, async (t) => {
    const child = await serveOnHost(NAME, 'net', deviceOf(format));
    const folder = `/sys/bus/vdpa/devices/${NAME}`;
    const virtio = readdirSync(folder).find((entry) => entry.startsWith('virtio'));
    const [name = ''] = readdirSync(`${folder}/${virtio}/net`);
    const features = readFileSync(`${folder}/${virtio}/features`, 'latin1');
    t.equal(features[34], format === 'packed' ? '1' : '0', 'VIRTIO_F_RING_PACKED');
    // In the same namespace, the kernel would deliver packets to itself.
    run('ip', 'netns', 'add', NAMESPACE);
    t.teardown(() => run('ip', 'netns', 'del', NAMESPACE));
    run('ip', 'link', 'set', name, 'netns', NAMESPACE);
    const sh: Shell = async (script) => {
      const shell = `nc() { ${BUSYBOX} nc "$@"; }; ping() { ${BUSYBOX} ping "$@"; }\n${script}`;
      const argv = ['netns', 'exec', NAMESPACE, 'sh', '-ec', shell];
      const { stdout } = await promisify(execFile)('ip', argv, { timeout: 120_000 });
      return stdout.trimEnd();
    };
    await sh(`ip addr add ${PEER}/24 dev ${name}; ip link set ${name} up`);
    await exchanges(t, sh, BUSYBOX, sha256(readFileSync(BUSYBOX)));
    child.kill('SIGTERM');
    t.same(await once(child, 'exit'), [0, null]);
  });
}

t.test('the driver for guests instead', async () => {
  run(BUSYBOX, 'rmmod', 'virtio_vdpa');
});

for (const format of ['split', 'packed']) {
  t.test(`a guest's interface (${format})`, async (t) => {
    const [child, vdpa] = await serveParent(NAME, 'net', deviceOf(format));
    const packed = format === 'packed';
    const vm = await bootGuest({
      image: 'tools',
      machine: { memory: 512 * MiB, nets: [{ vdpa, ring: { packed } }] },
    });
    t.teardown(() => vm.close());
    const sh: Shell = (script) => guestShell(vm, script);
    await sh(`modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
      ip addr add ${PEER}/24 dev eth0; ip link set eth0 up`);
    t.equal((await sh('cat /sys/class/net/eth0/device/features'))[34], packed ? '1' : '0');
    const [hash = ''] = (await sh('sha256sum /bin/busybox')).split(' ');
    await exchanges(t, sh, '/bin/busybox', hash);
    await vm.close();
    child.kill('SIGTERM');
    t.same(await once(child, 'exit'), [0, null]);
  });
}
