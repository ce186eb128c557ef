/** The PMEM device (virtio 1.3 §5.19). */
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { createHandler, PmemDevice } from '../../../../src/virtio/device/pmem/pmem.ts';
import { testFolder } from '../../../support/rigs/files.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const folder = testFolder(t);
let files = 0;
function makeFile(size: number): string {
  const file = path.join(folder, `pmem${files++}`);
  writeFileSync(file, '');
  truncateSync(file, size);
  return file;
}

function start(fd: number, readOnly: boolean, ...ring: number[]) {
  const rig = new DeviceRig();
  const features = featureSet(VIRTIO_F_VERSION_1, ...ring);
  rig.start(createHandler({ fd, readOnly }), features, [64]);
  const ask = (readable: number[], writable = 4): number[] => {
    rig.queue(0).add({ readable: [Uint8Array.from(readable)], writable: [writable] });
    rig.kick(0);
    return [...(rig.queue(0).completed()[0]?.data ?? [])];
  };
  return { rig, ask };
}

const FLUSH = [0, 0, 0, 0];
const FAILED = [255, 255, 255, 255];

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`§5.19.6 flushes, and what the file says to it (${format})`, async (t) => {
    const fd = openSync(makeFile(2 * MiB), 'r+');
    const { rig, ask } = start(fd, false, ...ring);
    t.same(ask(FLUSH), [0, 0, 0, 0]);
    t.same(ask([1, 0, 0, 0]), FAILED, 'no such request');
    t.same(ask([0, 0, 0]), [], 'too short');
    t.same(ask(FLUSH, 3), [], 'no room');
    closeSync(fd);
    t.same(ask(FLUSH), FAILED, 'a file that fdatasync(2) refuses');
    rig.close();
  });
}

t.test('a file that is only read needs no flush', async (t) => {
  const { rig, ask } = start(-1, true);
  t.same(ask(FLUSH), [0, 0, 0, 0]);
  rig.close();
});

t.test('many flushes are served in turns', async (t) => {
  const { rig } = start(-1, true);
  for (let at = 0; at < 20; at++) {
    rig.queue(0).add({ readable: [Uint8Array.from(FLUSH)], writable: [4] });
  }
  rig.kick(0);
  t.equal(rig.queue(0).completed().length, 16);
  rig.pump();
  t.equal(rig.queue(0).completed().length, 4);
  rig.close();
});

t.test('its file is memory of the guest, above all other', async (t) => {
  const [first, second] = [makeFile(4 * MiB), makeFile(2 * MiB)];
  const devices = [
    new PmemDevice('pmem0', { path: first }),
    new PmemDevice('pmem1', { path: second, readOnly: true }),
  ];
  using ram = new Ram(33 * MiB, 'memfd', true, {
    growth: 2 * MiB,
    files: devices.map(({ file }) => file),
  });
  const { memory } = ram;
  for (const [at, device] of devices.entries()) device.place(memory.share.files?.[at]);
  const starts = devices.map(({ config }) => {
    const view = new DataView(config.buffer);
    return [view.getBigUint64(0, true), view.getBigUint64(8, true)].map(Number);
  });
  t.same(starts, [
    [7 * GiB, 4 * MiB],
    [8 * GiB, 2 * MiB],
  ]);
  const offset = memory.offset(7 * GiB + 4 * MiB - 8, 8, true);
  t.equal(memory.gpaOf(offset), 7 * GiB + 4 * MiB - 8);
  memory.writeU64(offset, 77);
  t.equal(readFileSync(first).readUInt32LE(4 * MiB - 8), 77, 'a store is in the file');
  t.equal(memory.offset(7 * GiB + 4 * MiB - 8, 9), -1, 'no further');
  t.equal(memory.offset(7 * GiB - 1, 2), -1);
  t.equal(memory.offset(8 * GiB, 8, true), -1, 'no device may write to the second one');
  const readable = memory.offset(8 * GiB, 8);
  t.equal(memory.readU64(readable), 0);
  memory.writeU64(readable, 99);
  t.equal(readFileSync(second).readUInt32LE(0), 0, 'and if it does, the file stays');
  t.equal(memory.reach, 3 * GiB + 4 * GiB + 2 * MiB);
  truncateSync(first, 0);
  t.equal(memory.readU64(offset), 0, 'a file that is cut reads as zeroes');
  for (const device of devices) device.close();
});

t.test('what cannot be one', async (t) => {
  t.throws(() => new PmemDevice('pmem0', { path: makeFile(3 * MiB) }), {
    code: 'E_PMEM',
    message: /pmem0: .* has 3145728 bytes, not whole 2 MiB; pad it with: truncate -s %2M /,
  });
  t.throws(() => new PmemDevice('pmem0', { path: makeFile(0) }), { code: 'E_DISK_SIZE' });
  t.throws(() => new PmemDevice('pmem0', { path: path.join(folder, 'absent') }), {
    code: 'E_DISK_ENOENT',
  });
});
