/** The record of what is in flight, by the protocol: its life, and peers that break it. */
import { ftruncateSync, readdirSync, readSync, writeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import * as vu from '../../../src/abi/vhost-user.ts';
import { QueueRegionPacked, QueueRegionSplit } from '../../../src/abi/vhost-user.ts';
import { featureSet, VIRTIO_F_RING_PACKED } from '../../../src/abi/virtio-ring.ts';
import type { Fd } from '../../../src/host/fd.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import * as payload from '../../../src/vhost-user/payload.ts';
import { FrontendRig } from '../../support/rigs/frontend.ts';
import { fill, isRandom, path, withBackend } from '../../support/rigs/rng-backend.ts';

const area = (queues: number): payload.InflightArea => ({
  mmapSize: 4096,
  mmapOffset: 0,
  queues,
  queueSize: 64,
});

/** Has the backend make a record, and use it. */
async function shareRecord(front: FrontendRig): Promise<Fd> {
  const wanted = payload.writeInflight({ ...area(1), mmapSize: 0 });
  const answer = await front.call(vu.VHOST_USER_GET_INFLIGHT_FD, wanted);
  const [file] = answer.fds;
  if (file === undefined) throw new Error('no record');
  await handRecord(front, file);
  return file;
}

async function handRecord(front: FrontendRig, file: Fd): Promise<void> {
  const record = payload.writeInflight({ ...area(1), mmapSize: 2112 });
  const code = await front.ask(vu.VHOST_USER_SET_INFLIGHT_FD, record, [file.fd]);
  if (code !== 0n) throw new Error('the record was refused');
}

for (const [format, refused] of [
  ['packed', 0n],
  ['split', featureSet(VIRTIO_F_RING_PACKED)],
] as const) {
  t.test(
    `${format} ring with a record, which has what is in flight while the ring is not served`,
    (t) =>
      withBackend(async () => {
        using front = new FrontendRig(path);
        await front.negotiate(refused);
        using file = await shareRecord(front);
        const ring = await front.startRing(0);
        for (let i = 0; i < 40; i++) isRandom(t, await fill(ring));
        const bytes = Buffer.alloc(2112);
        readSync(file.fd, bytes, 0, bytes.length, 0);
        const version = bytes.readUInt16LE(QueueRegionSplit.version.offset);
        t.equal(version, 1, 'the record is in use');
        t.equal(bytes.readUInt16LE(QueueRegionSplit.desc_num.offset), 64);
        const used =
          format === 'split' ? QueueRegionSplit.used_idx.offset : QueueRegionPacked.used_idx.offset;
        t.equal(bytes.readUInt16LE(used), format === 'split' ? 40 : 8);
        // A change of another ring restarts this one, with the record as it is.
        t.equal(await front.shareMemory(), 0n);
        isRandom(t, await fill(ring));
        const index = payload.writeVringNumber({ index: 0, num: 0 });
        const base = await front.call(vu.VHOST_USER_GET_VRING_BASE, index);
        readSync(file.fd, bytes, 0, bytes.length, 0);
        t.equal(bytes.readUInt16LE(QueueRegionSplit.version.offset), 0, 'nothing is in flight');
        await front.resumeRing(0, payload.readVringNumber(base).num);
        isRandom(t, await fill(ring));
      }),
  );
}

t.test('a record that no backend can have left stops the device', (t) =>
  withBackend(async (log) => {
    using front = new FrontendRig(path);
    await front.negotiate();
    using file = await shareRecord(front);
    const wrong = Uint16Array.of(7);
    writeSync(file.fd, wrong, 0, 2, QueueRegionSplit.version.offset);
    await front.startRing(0);
    while (log.length === 0) await turn();
    t.same(log, [
      'rng0: stopped: the record of what is in flight cannot be: its version is 7, not 1; reset the device',
    ]);
    t.equal(await front.ask(vu.VHOST_USER_SET_STATUS, payload.writeU64(0)), 0n);
    isRandom(t, await fill(await front.startRing(0)));
  }),
);

t.test('a record that is taken away ends the connection, and not the process', (t) =>
  withBackend(async (log) => {
    using front = new FrontendRig(path);
    await front.negotiate();
    const before = readdirSync('/proc/self/fd').length;
    {
      using ram = new Ram(MiB, 'memfd', false);
      const { fd } = ram.memory.share;
      const record = payload.writeInflight(area(1));
      t.equal(await front.ask(vu.VHOST_USER_SET_INFLIGHT_FD, record, [fd]), 0n);
      const ring = await front.startRing(0);
      await fill(ring);
      ftruncateSync(fd, 0);
      ring.queue.add({ writable: [64] });
      ring.kick.signal();
    }
    await front.closed;
    while (log.every((line) => !line.includes('disconnected'))) await turn();
    t.match(log.at(-1), /it truncated memory that it had shared$/);
    t.ok(readdirSync('/proc/self/fd').length <= before + 2, 'the eventfds of the ring are ours');
  }),
);
