/** The block device over an engine that the test plays: order, caches, short transfers, ends. */
import t from 'tap';
import { EINTR, EIO, EOPNOTSUPP } from '../../../../src/abi/errno.ts';
import * as abi from '../../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { IN_FLIGHT } from '../../../../src/backend/disk-engine.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { BlkHandler } from '../../../../src/virtio/device/blk/blk-handler.ts';
import { FakeDisk, type FakeRequest } from '../../../support/fakes/disk.ts';
import {
  type BlkResult,
  blkHeader,
  blkRange,
  blkResult,
} from '../../../support/rigs/blk-driver.ts';

const { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH } = abi;
const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = abi;
const ALL = [
  abi.VIRTIO_BLK_F_FLUSH,
  abi.VIRTIO_BLK_F_CONFIG_WCE,
  abi.VIRTIO_BLK_F_DISCARD,
  abi.VIRTIO_BLK_F_WRITE_ZEROES,
];

interface Setup {
  readonly handler: BlkHandler;
  readonly engine: FakeDisk;
  readonly rig: DeviceRig;
  readonly writeback: Int32Array;
  readonly send: (type: number, sector: number, data?: Uint8Array | number) => void;
  readonly results: () => BlkResult[];
}

function start(engine: FakeDisk, features: readonly number[] = ALL, size = 16): Setup {
  const writeback = new Int32Array(new SharedArrayBuffer(4)).fill(1);
  const options = {
    disk: { fd: -1, engine: 'sync', blockDevice: false, direct: false },
    size: MiB,
    fileSize: MiB,
    readOnly: false,
    id: 'fake',
    writeback: writeback.buffer,
  } as const;
  const rig = new DeviceRig(16 * MiB);
  const handler = new BlkHandler(options, () => engine);
  rig.start(handler, featureSet(VIRTIO_F_VERSION_1, ...features), [size]);
  return {
    handler,
    engine,
    rig,
    writeback,
    send(type, sector, data = 0) {
      const readable = [blkHeader(type, sector)];
      if (typeof data !== 'number') readable.push(data);
      const writable = typeof data === 'number' && data > 0 ? [data, 1] : [1];
      rig.queue(0).add({ readable, writable });
      rig.kick(0);
    },
    results: () => rig.queue(0).completed().map(blkResult),
  };
}

function lengthOf(request: FakeRequest): number {
  return request.kind === 'read' || request.kind === 'write' ? 512 : 0;
}

t.test('§5.2.6.2 case 3: a flush is one flush of the file, and completes after it', async (t) => {
  const { engine, rig, send, results } = start(new FakeDisk());
  send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
  engine.complete(engine.requests[0], 512);
  rig.pump();
  t.equal(results().length, 1);
  send(VIRTIO_BLK_T_FLUSH, 0);
  t.same(engine.kinds, ['write', 'flush']);
  t.equal(engine.requests[0]?.flag, false, 'the write itself need not be stable');
  t.equal(results().length, 0, 'no answer before the file is flushed');
  engine.complete(engine.requests[1], 0);
  rig.pump();
  t.same(
    results().map(({ status }) => status),
    [VIRTIO_BLK_S_OK],
  );
  send(VIRTIO_BLK_T_FLUSH, 0);
  engine.complete(engine.requests[2], -EIO);
  rig.pump();
  t.same(
    results().map(({ status }) => status),
    [VIRTIO_BLK_S_IOERR],
    'failed flushes are reported',
  );
  rig[Symbol.dispose]();
});

t.test('§5.2.6.2 case 1: without FLUSH every write is stable when it completes', async (t) => {
  const features = ALL.filter((bit) => bit !== abi.VIRTIO_BLK_F_FLUSH);
  const { engine, rig, send } = start(new FakeDisk(lengthOf), features);
  send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
  send(abi.VIRTIO_BLK_T_DISCARD, 0, blkRange(0, 8));
  t.same(engine.kinds, ['write', 'discard', 'flush']);
  t.equal(engine.requests[0]?.flag, true);
  rig[Symbol.dispose]();
});

t.test('§5.2.6.2 case 2: writeback 0 makes writes stable, if it was negotiated', async (t) => {
  for (const negotiated of [true, false]) {
    const features = ALL.filter((bit) => negotiated || bit !== abi.VIRTIO_BLK_F_CONFIG_WCE);
    const { engine, rig, send, writeback } = start(new FakeDisk(lengthOf), features);
    send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
    writeback[0] = 0;
    send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
    send(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, blkRange(0, 8));
    writeback[0] = 1;
    send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
    const writes = engine.requests.filter(({ kind }) => kind === 'write');
    t.same(
      writes.map(({ flag }) => flag),
      [false, negotiated, false],
    );
    t.equal(engine.kinds.includes('flush'), negotiated, 'zeroes are flushed after');
    rig[Symbol.dispose]();
  }
});

t.test('§5.2.6.2 what was written before writeback went to 0 is flushed at once', async (t) => {
  const engine = new FakeDisk(lengthOf);
  const { handler, rig, send } = start(engine);
  send(VIRTIO_BLK_T_OUT, 0, new Uint8Array(512));
  handler.message({ flush: true });
  t.same(
    engine.requests.map(({ kind, flag }) => [kind, flag]),
    [
      ['write', false],
      ['flush', true],
    ],
  );
  rig[Symbol.dispose]();
});

t.test('short transfers continue where they ended, interrupted ones start again', async (t) => {
  const answers = [512, -EINTR, 1000, 24, 512];
  const { engine, rig, send, results } = start(new FakeDisk(() => answers.shift() ?? -EIO));
  send(VIRTIO_BLK_T_IN, 2, 2048);
  const offsets = engine.requests.map(({ offset }) => offset);
  t.same(offsets, [1024, 1536, 1536, 2536, 2560]);
  t.same(
    results().map(({ status, written }) => [status, written]),
    [[VIRTIO_BLK_S_OK, 2049]],
  );
  answers.push(512, 0);
  send(VIRTIO_BLK_T_IN, 2, 2048);
  const failed = results()[0];
  t.same([failed?.status, failed?.written], [VIRTIO_BLK_S_IOERR, 512], 'the end of the file');
  answers.push(512, -EIO);
  send(VIRTIO_BLK_T_OUT, 2, new Uint8Array(2048));
  t.equal(results()[0]?.status, VIRTIO_BLK_S_IOERR);
  rig[Symbol.dispose]();
});

t.test('a call that always asks to be made again fails its request', async (t) => {
  for (const errno of [EINTR, 11]) {
    for (const type of [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH]) {
      const { engine, rig, send, results } = start(new FakeDisk(() => -errno));
      send(type, 0, type === VIRTIO_BLK_T_OUT ? new Uint8Array(512) : 512);
      t.equal(results()[0]?.status, VIRTIO_BLK_S_IOERR);
      t.ok(engine.requests.length <= 100, `after ${engine.requests.length} calls`);
      rig[Symbol.dispose]();
    }
  }
});

t.test('completions in any order reach the right requests', async (t) => {
  for (const ring of [[], [VIRTIO_F_RING_PACKED]]) {
    const { engine, rig, send, results } = start(new FakeDisk(), [...ALL, ...ring]);
    for (let i = 0; i < 4; i++) send(VIRTIO_BLK_T_IN, i, 512 * (i + 1));
    for (const i of [2, 0, 3, 1]) engine.complete(engine.requests[i], 512 * (i + 1));
    rig.pump();
    t.same(
      results().map(({ written }) => written),
      [1537, 513, 2049, 1025],
    );
    rig[Symbol.dispose]();
  }
});

t.test('§2.7.9 with IN_ORDER requests that overtook others wait for them', async (t) => {
  for (const ring of [[], [VIRTIO_F_RING_PACKED]]) {
    const features = [...ALL, VIRTIO_F_IN_ORDER, ...ring];
    const { engine, rig, send, results } = start(new FakeDisk(), features);
    for (let i = 0; i < 3; i++) send(VIRTIO_BLK_T_IN, i, 512 * (i + 1));
    engine.complete(engine.requests[1], 1024);
    rig.pump();
    t.equal(results().length, 0);
    engine.complete(engine.requests[0], 512);
    engine.complete(engine.requests[2], -EIO);
    rig.pump();
    const statuses = results().map(({ status }) => status);
    t.same(statuses, [VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR]);
    rig[Symbol.dispose]();
  }
});

t.test('stop waits for what is in flight, and answers it', async (t) => {
  const { engine, rig, send, results } = start(new FakeDisk());
  send(VIRTIO_BLK_T_IN, 0, 512);
  send(VIRTIO_BLK_T_IN, 1, 1024);
  const waits: number[] = [];
  engine.onWait = () => {
    const request = engine.requests[waits.length === 0 ? 0 : engine.requests.length - 1];
    waits.push(request?.offset ?? -1);
    // The second request first comes back short, and must be carried on.
    engine.complete(waits.length === 1 ? request : engine.requests[1], 512);
  };
  rig.stop();
  t.equal(waits.length, 3);
  t.ok(engine.closed);
  t.same(
    results().map(({ status }) => status),
    [VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK],
  );
  rig[Symbol.dispose]();
});

t.test('a queue that is full to the last descriptor continues when requests end', async (t) => {
  for (const ring of [[], [VIRTIO_F_RING_PACKED]]) {
    const features = [...ALL, VIRTIO_F_INDIRECT_DESC, ...ring];
    const { engine, rig, send, results } = start(new FakeDisk(), features, 4);
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 4; i++) send(VIRTIO_BLK_T_FLUSH, 0);
      t.equal(engine.requests.length, round * 4 + 4);
      for (const request of engine.requests.slice(round * 4)) engine.complete(request, 0);
      rig.pump();
      rig.pump();
      t.equal(results().length, 4);
    }
    rig[Symbol.dispose]();
  }
});

t.test('§2.7.13 descriptors made available again while in use break the device', async (t) => {
  const { engine, rig, send } = start(new FakeDisk(), ALL, 8);
  for (let i = 0; i < 4; i++) send(VIRTIO_BLK_T_FLUSH, 0);
  const { driverArea } = rig.queue(0);
  for (let i = 4; i < 16; i++) {
    driverArea.setUint16(4 + (i % 8) * 2, 0, true);
    driverArea.setUint16(2, i + 1, true);
    rig.notify(0);
  }
  t.ok(engine.requests.length <= 8, 'never more in flight than the queue holds');
  let next = 0;
  engine.onWait = () => engine.complete(engine.requests[next++], 0);
  rig.stop();
  t.equal(next, engine.requests.length, 'all of them ended');
  rig[Symbol.dispose]();
});

t.test('a long batch leaves the other events a turn', async (t) => {
  const { engine, rig, results } = start(new FakeDisk(lengthOf), ALL, 1024);
  for (let i = 0; i < 300; i++) {
    rig.queue(0).add({ readable: [blkHeader(VIRTIO_BLK_T_FLUSH, 0)], writable: [1] });
  }
  rig.kick(0);
  t.equal(results().length, 256);
  rig.pump();
  t.equal(results().length, 44);
  t.equal(engine.requests.length, 300);
  rig[Symbol.dispose]();
});

t.test('what the disk cannot discard is unsupported, what it cannot zero is written', async (t) => {
  const answer = (request: FakeRequest) => (request.kind === 'write' ? 4096 : -EOPNOTSUPP);
  const { engine, rig, send, results } = start(new FakeDisk(answer));
  send(abi.VIRTIO_BLK_T_DISCARD, 0, blkRange(0, 8));
  t.equal(results()[0]?.status, VIRTIO_BLK_S_UNSUPP);
  const ranges = new Uint8Array([...blkRange(8, 16, 1), ...blkRange(64, 8)]);
  send(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges);
  t.equal(results()[0]?.status, VIRTIO_BLK_S_OK);
  t.same(
    engine.requests.slice(1).map(({ kind, offset, flag }) => [kind, offset, flag]),
    [
      ['zero', 4096, true],
      ['write', 4096, false],
      ['write', 8192, false],
      ['zero', 32768, false],
      ['write', 32768, false],
    ],
  );
  rig[Symbol.dispose]();
});

t.test('a fault in the queue breaks the device; requests in flight still end', async (t) => {
  const { engine, rig, send, results } = start(new FakeDisk());
  send(VIRTIO_BLK_T_IN, 0, 512);
  t.equal(engine.requests.length, 1);
  rig.queue(0).driverArea.setUint16(2, 100, true);
  rig.notify(0);
  t.match(rig.brokenReason, /§2\.7\.13/);
  engine.onWait = () => engine.complete(engine.requests[0], 512);
  rig.stop();
  t.equal(results().length, 1);
  t.equal(IN_FLIGHT < -4096, true, 'no errno is taken for IN_FLIGHT');
  rig[Symbol.dispose]();
});
