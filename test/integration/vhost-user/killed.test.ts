/**
 * `nodevmm serve blk` killed under load, again and again, in front of one driver: by the record of
 * what is in flight each request is executed, and returned once.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../../src/abi/virtio-blk.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { blkKind } from '../../../src/virtio/device/blk/frontend-blk.ts';
import type { ShareMode } from '../../../src/virtio/frontend-device.ts';
import { blkHeader, TemporaryFolder } from '../../support/rigs/blk-driver.ts';
import { BUNDLE, untilListening } from '../../support/rigs/host.ts';

const BLOCK = 4096;
const BLOCKS = 512;
const QUEUES = 2;
const DEPTH = 16;
const DEATHS = 4;
const SPLIT = featureSet(
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
);
const PACKED = SPLIT | featureSet(ring.VIRTIO_F_RING_PACKED);
const DIRECT = PACKED & ~featureSet(ring.VIRTIO_F_INDIRECT_DESC);

async function serve(socket: string, disk: string): Promise<ChildProcess> {
  const args = [BUNDLE, 'serve', 'blk', `${disk},queues=${QUEUES}`, '--socket', socket];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  await untilListening(socket, child);
  return child;
}

async function killed(t: Test, features: bigint, share?: ShareMode): Promise<void> {
  using folder = new TemporaryFolder();
  const disk = folder.file('disk', BLOCKS * BLOCK);
  const socket = path.join(folder.path, 's');
  let child = await serve(socket, disk);
  t.teardown(() => child.kill('SIGKILL'));
  const address = { socket, server: false, timeoutMs: 20_000, share };
  const device = await VhostUserDevice.open('blk0', address, (session) =>
    blkKind('blk0', session, undefined, 64),
  );
  await using rig = new VhostUserRig(device);
  await rig.start(features);
  /** What each block holds, and the block of each request in flight, by queue and token. */
  const content = new Uint8Array(BLOCKS);
  const busy = new Set<number>();
  const inFlight = Array.from({ length: QUEUES }, () => new Map<number, number>());
  let written = 0;
  let statuses = 0;
  const fill = (): void => {
    for (const [queue, requests] of inFlight.entries()) {
      const driver = rig.queues[queue];
      while (driver !== undefined && requests.size < DEPTH) {
        // Far apart, so that nothing is merged; one request a block at a time.
        let block = (written * 37) % BLOCKS;
        while (busy.has(block)) block = (block + 1) % BLOCKS;
        content[block] = 1 + (written++ % 255);
        const data = Buffer.alloc(BLOCK, content[block]);
        const header = blkHeader(VIRTIO_BLK_T_OUT, (block * BLOCK) / 512);
        // A buffer that is used twice has the driver throw.
        requests.set(driver.add({ readable: [header, data], writable: [1] }), block);
        busy.add(block);
      }
      rig.kick(queue);
    }
  };
  const reap = (): number => {
    let count = 0;
    for (const [queue, requests] of inFlight.entries()) {
      for (const { token, writable } of rig.queues[queue]?.completed() ?? []) {
        busy.delete(requests.get(token) ?? -1);
        requests.delete(token);
        statuses += writable[0] ?? 1;
        count++;
      }
    }
    return count;
  };
  for (let death = 0; death < DEATHS; death++) {
    const until = written + 300 + 171 * death;
    while (written < until) {
      fill();
      await rig.until(() => reap() > 0, 'used buffers');
    }
    fill();
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    await rig.until(() => rig.logs.length === 2 * death + 1, 'line');
    child = await serve(socket, disk);
    await rig.until(() => rig.logs.length === 2 * death + 2, 'second line');
  }
  while (busy.size > 0) await rig.until(() => reap() > 0, 'last used buffers');
  t.equal(statuses, 0, `${written} writes, none failed`);
  const file = readFileSync(disk);
  const wrong = [...content.keys()].filter(
    (block) =>
      !file.subarray(block * BLOCK, (block + 1) * BLOCK).every((b) => b === content[block]),
  );
  t.same(wrong, [], 'all that was acknowledged is in the file');
  for (const queue of inFlight.keys()) {
    rig.add(queue, { readable: [blkHeader(VIRTIO_BLK_T_IN, 0)], writable: [BLOCK, 1] });
    t.equal((await rig.completed(queue))[0]?.writable[0], content[0]);
  }
  await delay(20);
  t.equal(reap(), 0, 'and no buffer more');
  t.same(rig.broken, []);
  const states = await rig.stop();
  await rig.resume(features, states);
  rig.add(0, { readable: [blkHeader(VIRTIO_BLK_T_IN, 0)], writable: [BLOCK, 1] });
  t.equal((await rig.completed(0)).length, 1, 'a clean stop and start after that');
}

t.test('killed on split rings', (t) => killed(t, SPLIT));
t.test('killed on packed rings', (t) => killed(t, PACKED));
t.test('killed on packed rings with lists of descriptors', (t) => killed(t, DIRECT));
t.test('killed behind copies of the rings', (t) => killed(t, PACKED, 'shadow'));
