/** The block device, clause by clause (virtio 1.3 §5.2), on both engines. */
import { readFileSync, statSync, truncateSync } from 'node:fs';
import t, { type Test } from 'tap';
import * as abi from '../../../../src/abi/virtio-blk.ts';
import {
  hasFeature,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import {
  BlkDriver,
  type BlkDriverOptions,
  blkHeader,
  blkRange,
  TemporaryFolder,
} from '../../../support/rigs/blk-driver.ts';

const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = abi;
const SECTORS = 64;

function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + seed * 31 + (i >> 8)) & 0xff;
  return bytes;
}

/** Compares bytes; a structural comparison of large arrays takes seconds. */
function sameBytes(t: Test, found: Uint8Array, wanted: Uint8Array, text?: string): void {
  t.equal(Buffer.compare(found, wanted), 0, text ?? 'the same bytes');
}

const folder = new TemporaryFolder();
t.teardown(() => folder[Symbol.dispose]());
let files = 0;

/** A disk of 64 sectors with a pattern on it. */
function open(options: BlkDriverOptions = {}): { path: string; disk: BlkDriver } {
  const path = folder.file(`disk${files++}`, pattern(SECTORS * 512));
  return { path, disk: new BlkDriver(path, options) };
}

function onBothEngines(name: string, body: (t: Test, base: BlkDriverOptions) => void): void {
  for (const engine of ['sync', 'io_uring'] as const) {
    t.test(`${name} (${engine})`, async (t) => body(t, { engine }));
  }
}

onBothEngines('§5.2.6 reads, writes and flushes move data both ways', (t, base) => {
  const { path, disk } = open(base);
  const read = disk.read(3, 1024);
  t.equal(read.status, VIRTIO_BLK_S_OK);
  sameBytes(t, read.data, pattern(SECTORS * 512).subarray(3 * 512, 5 * 512));
  t.equal(read.written, 1025, 'the used length counts data and status');
  const data = pattern(1536, 9);
  const write = disk.write(61, data);
  t.same([write.status, write.written], [VIRTIO_BLK_S_OK, 1]);
  t.equal(disk.request(abi.VIRTIO_BLK_T_FLUSH, 0).status, VIRTIO_BLK_S_OK);
  sameBytes(t, readFileSync(path).subarray(61 * 512), data);
  disk[Symbol.dispose]();
});

onBothEngines('§2.6.4 any layout of header, data and status serves', (t, base) => {
  const { disk } = open(base);
  const header = blkHeader(abi.VIRTIO_BLK_T_OUT, 5);
  const data = pattern(1024, 4);
  const together = new Uint8Array([...header, ...data]);
  const cuts = [[16], [3, 9], [16, 17], [1, 2, 15, 18, 700], [600]];
  for (const cut of cuts) {
    const ends = [...cut, together.length];
    const pieces = ends.map((end, i) => together.subarray(i === 0 ? 0 : ends[i - 1], end));
    t.equal(disk.send(pieces, [1]).status, VIRTIO_BLK_S_OK, `written in ${pieces.length} pieces`);
    for (const writable of [[1025], [512, 513], [1, 1023, 1], [1000, 25]]) {
      const read = disk.send([blkHeader(abi.VIRTIO_BLK_T_IN, 5)], writable);
      t.equal(read.status, VIRTIO_BLK_S_OK);
      sameBytes(t, read.data, data, `read into ${writable.length} pieces`);
    }
    t.equal(disk.write(5, new Uint8Array(1024)).status, VIRTIO_BLK_S_OK);
  }
  disk[Symbol.dispose]();
});

onBothEngines('§5.2.6.1 what lies beyond the capacity is refused', (t, base) => {
  const { path, disk } = open(base);
  const before = statSync(path).size;
  const sectors = [SECTORS, SECTORS - 1, 2 ** 32, 2n ** 55n - 1n, 2n ** 55n, 2n ** 64n - 1n];
  for (const sector of sectors) {
    const read = disk.read(sector, 1024);
    t.same([read.status, read.written], [VIRTIO_BLK_S_IOERR, 0], `reading at ${sector}`);
    const write = disk.write(sector, new Uint8Array(1024));
    t.equal(write.status, VIRTIO_BLK_S_IOERR, `writing at ${sector}`);
    t.equal(disk.discard(sector, 2).status, VIRTIO_BLK_S_IOERR, `discarding at ${sector}`);
  }
  t.equal(statSync(path).size, before);
  t.equal(disk.read(SECTORS - 1, 512).status, VIRTIO_BLK_S_OK, 'the last sector is there');
  disk[Symbol.dispose]();
});

onBothEngines('§5.2.6.1 data that is not whole sectors is refused', (t, base) => {
  const { disk } = open(base);
  t.equal(disk.read(0, 511).status, VIRTIO_BLK_S_IOERR);
  t.equal(disk.write(0, new Uint8Array(513)).status, VIRTIO_BLK_S_IOERR);
  sameBytes(t, disk.read(0, 512).data, pattern(512));
  disk[Symbol.dispose]();
});

onBothEngines('§5.2.6 a header cut short is an error, no data is an empty request', (t, base) => {
  const { disk } = open(base);
  for (const length of [1, 15]) {
    const cut = blkHeader(abi.VIRTIO_BLK_T_IN, 0).subarray(0, length);
    t.equal(disk.send([cut], [512, 1]).status, VIRTIO_BLK_S_IOERR);
  }
  t.equal(disk.send([], [1]).status, VIRTIO_BLK_S_IOERR, 'no header at all');
  t.equal(disk.request(abi.VIRTIO_BLK_T_IN, 0).status, VIRTIO_BLK_S_OK);
  t.equal(disk.request(abi.VIRTIO_BLK_T_OUT, 0).status, VIRTIO_BLK_S_OK);
  disk[Symbol.dispose]();
});

t.test('§5.2.6 a request without room for its status breaks the device', async (t) => {
  const { disk } = open();
  disk.rig.queue(0).add({ readable: [blkHeader(abi.VIRTIO_BLK_T_FLUSH, 0)] });
  disk.rig.kick(0);
  t.match(disk.rig.brokenReason, /§5\.2\.6/);
  disk.rig.queue(0).add({ readable: [blkHeader(abi.VIRTIO_BLK_T_IN, 0)], writable: [512, 1] });
  disk.rig.notify(0);
  t.ok(disk.rig.queue(0).inFlight >= 1, 'and nothing is served any more');
  disk[Symbol.dispose]();
});

t.test('§5.2.6 unknown and unoffered request types are unsupported', async (t) => {
  const { disk } = open();
  for (const type of [2, 3, 5, 10, 12, 14, 15, 26, 0x80000000, 0xffffffff]) {
    t.equal(disk.request(type, 0).status, VIRTIO_BLK_S_UNSUPP, `type ${type}`);
  }
  disk[Symbol.dispose]();
});

t.test('§5.2.6 GET_ID returns a NUL-padded string, without terminator at 20 bytes', async (t) => {
  for (const serial of ['s1', '12345678901234567890']) {
    const { disk } = open({ serial });
    const id = disk.request(abi.VIRTIO_BLK_T_GET_ID, 0, 20);
    t.same([id.status, id.written], [VIRTIO_BLK_S_OK, 21]);
    t.equal(Buffer.from(id.data).toString('latin1'), serial.padEnd(20, '\0'));
    const long = disk.request(abi.VIRTIO_BLK_T_GET_ID, 0, 40);
    t.same([long.status, long.written], [VIRTIO_BLK_S_OK, 20]);
    const short = disk.request(abi.VIRTIO_BLK_T_GET_ID, 0, 1);
    t.equal(short.data[0], serial.charCodeAt(0));
    disk[Symbol.dispose]();
  }
});

t.test('§5.2.6.2 a read-only disk takes no write of any kind', async (t) => {
  const { path, disk } = open({ readOnly: true });
  t.ok(hasFeature(disk.device.features, abi.VIRTIO_BLK_F_RO));
  t.notOk(hasFeature(disk.device.features, abi.VIRTIO_BLK_F_DISCARD));
  t.equal(disk.write(0, new Uint8Array(512)).status, VIRTIO_BLK_S_IOERR);
  t.equal(disk.discard(0, 1).status, VIRTIO_BLK_S_IOERR);
  const zeroes = disk.request(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, blkRange(0, 1));
  t.equal(zeroes.status, VIRTIO_BLK_S_IOERR);
  t.equal(disk.request(abi.VIRTIO_BLK_T_FLUSH, 0).status, VIRTIO_BLK_S_OK);
  sameBytes(t, disk.read(0, 512).data, pattern(512));
  sameBytes(t, readFileSync(path), pattern(SECTORS * 512));
  disk[Symbol.dispose]();
});

onBothEngines('§5.2.6 discard gives blocks up, write zeroes leaves zeroes', (t, base) => {
  const path = folder.file(`disk${files++}`, pattern(64 * 4096));
  const disk = new BlkDriver(path, base);
  const blocks = statSync(path).blocks;
  t.equal(disk.discard(0, 32 * 8).status, VIRTIO_BLK_S_OK);
  t.ok(statSync(path).blocks < blocks, 'fewer blocks are allocated');
  t.equal(statSync(path).size, 64 * 4096, 'the size stays');
  for (const flags of [0, abi.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP]) {
    const at = 300 + flags * 50;
    t.not(Buffer.compare(disk.read(at, 5120).data, new Uint8Array(5120)), 0);
    const ranges = new Uint8Array([...blkRange(at, 3, flags), ...blkRange(at + 3, 7, flags)]);
    const zeroed = disk.request(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges);
    t.same([zeroed.status, zeroed.written], [VIRTIO_BLK_S_OK, 1]);
    sameBytes(t, disk.read(at, 5120).data, new Uint8Array(5120));
    t.not(disk.read(at - 1, 512).data[0], 0, 'the sector before is untouched');
  }
  disk[Symbol.dispose]();
});

t.test('§5.2.6.2 flags of discard and write zeroes', async (t) => {
  const { disk } = open();
  t.equal(disk.discard(0, 1, 1).status, VIRTIO_BLK_S_UNSUPP, 'unmap in a discard');
  for (const flags of [2, 0x80000000, 3]) {
    const both = new Uint8Array([...blkRange(0, 1), ...blkRange(1, 1, flags)]);
    const zeroes = disk.request(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, both);
    t.equal(zeroes.status, VIRTIO_BLK_S_UNSUPP, `flags ${flags}`);
  }
  sameBytes(t, disk.read(0, 512).data, pattern(512), 'nothing was done before all was checked');
  disk[Symbol.dispose]();
});

t.test('§5.2.6.1 segments of discard and write zeroes are limited', async (t) => {
  const { disk } = open();
  const ranges = (count: number) => {
    const bytes = new Uint8Array(count * 16);
    for (let i = 0; i < count; i++) bytes.set(blkRange(i, 1), i * 16);
    return bytes;
  };
  const discard = (bytes: Uint8Array) => disk.request(abi.VIRTIO_BLK_T_DISCARD, 0, bytes).status;
  const view = new DataView(disk.device.config.buffer);
  const segments = view.getUint32(abi.virtio_blk_config.max_discard_seg.offset, true);
  const sectors = view.getUint32(abi.virtio_blk_config.max_discard_sectors.offset, true);
  t.equal(discard(ranges(segments)), VIRTIO_BLK_S_OK);
  t.equal(discard(ranges(segments + 1)), VIRTIO_BLK_S_IOERR);
  t.equal(discard(ranges(2).subarray(0, 17)), VIRTIO_BLK_S_IOERR, 'not whole segments');
  t.equal(discard(new Uint8Array(0)), VIRTIO_BLK_S_IOERR, 'none');
  t.equal(discard(blkRange(0, 0)), VIRTIO_BLK_S_OK, 'an empty one');
  t.equal(disk.discard(0, sectors + 1).status, VIRTIO_BLK_S_IOERR);
  t.equal(disk.discard(2n ** 64n - 1n, 0xffffffff).status, VIRTIO_BLK_S_IOERR);
  disk[Symbol.dispose]();
  const other = open({ without: [abi.VIRTIO_BLK_F_DISCARD] }).disk;
  t.equal(other.discard(0, 1).status, VIRTIO_BLK_S_UNSUPP, 'not negotiated');
  other[Symbol.dispose]();
});

onBothEngines('a file truncated under the guest gives errors, and no crash', (t, base) => {
  const { path, disk } = open(base);
  truncateSync(path, 8 * 512 + 100);
  t.equal(disk.read(7, 512).status, VIRTIO_BLK_S_OK);
  const cut = disk.read(7, 1024);
  t.equal(cut.status, VIRTIO_BLK_S_IOERR);
  t.ok(cut.written <= 612, 'at most what was read counts as written');
  t.equal(disk.read(20, 512).status, VIRTIO_BLK_S_IOERR);
  disk[Symbol.dispose]();
});

onBothEngines('a read-only file that ends in a sector is filled up with zeroes', (t, base) => {
  const path = folder.file(`disk${files++}`, pattern(1100));
  const disk = new BlkDriver(path, { ...base, readOnly: true });
  const view = new DataView(disk.device.config.buffer);
  t.equal(view.getBigUint64(abi.virtio_blk_config.capacity.offset, true), 3n);
  const expected = new Uint8Array(1536);
  expected.set(pattern(1100));
  const read = disk.read(0, 1536);
  t.same([read.status, read.written], [VIRTIO_BLK_S_OK, 1537]);
  sameBytes(t, read.data, expected);
  sameBytes(t, disk.read(2, 512).data, expected.subarray(1024));
  disk[Symbol.dispose]();
});

onBothEngines('with O_DIRECT buffers of any alignment serve', (t, base) => {
  const length = 80 * 1024;
  const path = folder.file(`disk${files++}`, pattern(length));
  const disk = new BlkDriver(path, { ...base, direct: true });
  const block = new DataView(disk.device.config.buffer).getUint32(
    abi.virtio_blk_config.blk_size.offset,
    true,
  );
  t.ok(block >= 512);
  for (const writable of [[length, 1], [length + 1], [1, 511, 1000, length - 1511]]) {
    const read = disk.send([blkHeader(abi.VIRTIO_BLK_T_IN, 0)], writable);
    t.same([read.status, read.written], [VIRTIO_BLK_S_OK, length + 1]);
    sameBytes(t, read.data, pattern(length));
  }
  const header = blkHeader(abi.VIRTIO_BLK_T_OUT, 0);
  const data = pattern(length, 5);
  const write = disk.send(
    [new Uint8Array([...header, ...data.subarray(0, 7)]), data.subarray(7)],
    [1],
  );
  t.equal(write.status, VIRTIO_BLK_S_OK);
  sameBytes(t, readFileSync(path), data);
  disk[Symbol.dispose]();
});

t.test('every queue format and feature serves the same', async (t) => {
  const formats = [[], [VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_EVENT_IDX], [VIRTIO_F_IN_ORDER]];
  for (const packed of [[], [VIRTIO_F_RING_PACKED]]) {
    for (const format of formats) {
      const { disk } = open({ ring: [...packed, ...format], engine: 'io_uring', queues: 2 });
      for (const queue of [0, 1]) {
        const data = pattern(512, queue + 3);
        const write = disk.send([blkHeader(abi.VIRTIO_BLK_T_OUT, queue), data], [1], queue);
        t.equal(write.status, VIRTIO_BLK_S_OK);
        const read = disk.send([blkHeader(abi.VIRTIO_BLK_T_IN, queue)], [512, 1], queue);
        sameBytes(t, read.data, data, `features ${[...packed, ...format]}, queue ${queue}`);
      }
      disk[Symbol.dispose]();
    }
  }
});
