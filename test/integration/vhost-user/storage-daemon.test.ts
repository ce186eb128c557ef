/** The frontend with qemu-storage-daemon, a foreign backend: a disk, no KVM. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../../src/abi/virtio-blk.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { blkKind } from '../../../src/virtio/device/blk/frontend-blk.ts';
import { blkHeader, TemporaryFolder } from '../../support/rigs/blk-driver.ts';
import { programPath, untilListening } from '../../support/rigs/host.ts';

const SECTORS_PER_BLOCK = 8;
const BLOCK = 4096;
const FEATURES = featureSet(
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
);

async function daemon(socket: string, disk: string): Promise<ChildProcess> {
  rmSync(socket, { force: true });
  const address = `addr.type=unix,addr.path=${socket}`;
  const child = spawn(programPath('qemu-storage-daemon'), [
    '--blockdev',
    `driver=file,node-name=disk,filename=${disk}`,
    '--export',
    `type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=2,${address}`,
  ]);
  await untilListening(socket, child);
  return child;
}

async function withDisk(
  t: Test,
  use: (rig: VhostUserRig, restart: () => Promise<void>) => Promise<void>,
): Promise<void> {
  using folder = new TemporaryFolder();
  const disk = folder.file('disk', 8 * MiB);
  const socket = path.join(folder.path, 'socket');
  let child = await daemon(socket, disk);
  t.teardown(() => child.kill('SIGKILL'));
  const address = { socket, server: false, timeoutMs: 5000 };
  const device = await VhostUserDevice.open('blk0', address, (session) =>
    blkKind('blk0', session, undefined, 128),
  );
  await using rig = new VhostUserRig(device);
  await use(rig, async () => {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    child = await daemon(socket, disk);
  });
}

const write = (block: number, fill: number) => ({
  readable: [blkHeader(VIRTIO_BLK_T_OUT, block * SECTORS_PER_BLOCK), Buffer.alloc(BLOCK, fill)],
  writable: [1],
});
const read = (block: number) => ({
  readable: [blkHeader(VIRTIO_BLK_T_IN, block * SECTORS_PER_BLOCK)],
  writable: [BLOCK, 1],
});

t.test('what is written is read, on both queues, before and after a pause', (t) =>
  withDisk(t, async (rig) => {
    t.equal(rig.device.queues.length, 2);
    await rig.start(FEATURES);
    for (const queue of [0, 1]) {
      rig.add(queue, write(queue, queue + 1));
      t.equal((await rig.completed(queue))[0]?.writable[0], 0);
    }
    const states = await rig.stop();
    t.same(
      [...states.values()],
      [
        { nextAvail: 1, nextUsed: 1 },
        { nextAvail: 1, nextUsed: 1 },
      ],
    );
    await rig.resume(FEATURES, states);
    for (const queue of [0, 1]) {
      rig.add(queue, read(1 - queue));
      const [done] = await rig.completed(queue);
      t.same(done?.writable, Buffer.concat([Buffer.alloc(BLOCK, 2 - queue), Buffer.alloc(1)]));
    }
  }),
);

t.test('a backend that crashes is set up again when it is back', (t) =>
  withDisk(t, async (rig, restart) => {
    await rig.start(FEATURES);
    rig.add(0, write(0, 7));
    await rig.completed(0);
    const back = restart();
    // Before, while and after it is away.
    for (let block = 1; block < 40; block++) {
      rig.add(0, write(block, block));
      await rig.completed(0);
    }
    await back;
    rig.add(0, read(39));
    t.equal((await rig.completed(0))[0]?.writable[0], 39);
    await rig.until(() => rig.logs.length > 1, 'second line');
    t.match(rig.logs[0], /the backend closed the connection; waiting for it at/);
    t.equal(rig.logs[1], 'the backend reconnected');
    t.same(rig.broken, []);
  }),
);
