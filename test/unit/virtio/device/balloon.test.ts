/** The memory balloon (virtio 1.3 §5.5). */
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-balloon.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { BalloonDevice } from '../../../../src/virtio/device/balloon/balloon.ts';
import type { DeviceHost, QueueHandler } from '../../../../src/virtio/device.ts';

const MiB = 2 ** 20;
const PAGE = 4096;
const [INFLATE, DEFLATE, STATS, HINT, REPORTING] = [0, 1, 2, 3, 4];
const FILL = 0xa5;
const ALL = [
  abi.VIRTIO_BALLOON_F_MUST_TELL_HOST,
  abi.VIRTIO_BALLOON_F_STATS_VQ,
  abi.VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  abi.VIRTIO_BALLOON_F_PAGE_REPORTING,
];

interface Started {
  readonly ring?: readonly number[];
  readonly features?: readonly number[];
  readonly poison?: number;
}

function start({ ring = [], features = ALL, poison = 0 }: Started = {}) {
  const device = new BalloonDevice('balloon0');
  const rig = new DeviceRig();
  const config = Uint8Array.from(device.config);
  new DataView(config.buffer).setUint32(12, poison, true);
  const host: DeviceHost = {
    updateConfig: (change) => change(new DataView(config.buffer)),
    readConfig: () => config,
    post: (message) => rig.message(message),
  };
  device.attach(host);
  const all = featureSet(VIRTIO_F_VERSION_1, ...ring, ...features);
  const handler = device.createHandler();
  rig.start(handler, all, [64, 64, 64, 64, 64], config);
  const send = (queue: number, ...numbers: number[]): void => {
    const bytes = new Uint8Array(Uint32Array.from(numbers).buffer);
    rig.queue(queue).add({ readable: [bytes] });
    rig.kick(queue);
  };
  return { device, rig, config, handler, all, send };
}

/** A page of guest RAM. */
const page = (rig: DeviceRig, number: number): Uint8Array => rig.memory.bytes(number * PAGE, PAGE);
const isFilled = (rig: DeviceRig, number: number, value: number): boolean =>
  page(rig, number).every((byte) => byte === value);

/** 32 MiB on, where no queue or buffer is. */
const FREE = (32 * MiB) / PAGE;

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`§5.5.6 pages in the balloon are gone, and no others (${format})`, async (t) => {
    const { rig, send } = start({ ring });
    for (let at = 0; at < 8; at++) page(rig, FREE + at).fill(FILL);
    send(INFLATE, FREE + 5, FREE + 1, FREE + 2, FREE + 1);
    t.same(
      rig
        .queue(INFLATE)
        .completed()
        .map(({ written }) => written),
      [0],
    );
    const left = [0, 1, 2, 3, 4, 5, 6, 7].filter((at) => isFilled(rig, FREE + at, FILL));
    t.same(left, [0, 3, 4, 6, 7]);
    t.ok(isFilled(rig, FREE + 5, 0));
    send(DEFLATE, FREE + 1, FREE + 5);
    t.equal(rig.queue(DEFLATE).completed().length, 1);
    page(rig, FREE + 1).fill(FILL);
    t.ok(isFilled(rig, FREE + 1, FILL), 'and can be used again');
    t.equal(rig.brokenReason, undefined);
    rig.close();
  });

  t.test(
    `§5.5.6.3 statistics, in any order, and again when they are wanted (${format})`,
    async (t) => {
      const { device, rig } = start({ ring });
      const buffer = (...entries: (readonly [number, bigint])[]): Uint8Array => {
        const bytes = new Uint8Array(entries.length * 10);
        const view = new DataView(bytes.buffer);
        for (const [at, [tag, value]] of entries.entries()) {
          view.setUint16(at * 10, tag, true);
          view.setBigUint64(at * 10 + 2, value, true);
        }
        return bytes;
      };
      const free = abi.VIRTIO_BALLOON_S_MEMFREE;
      rig.queue(STATS).add({ readable: [buffer([free, 1n], [abi.VIRTIO_BALLOON_S_AVAIL, 2n])] });
      rig.kick(STATS);
      t.same(rig.queue(STATS).completed(), [], 'kept until others are wanted');
      const asked = device.statistics();
      t.equal(rig.queue(STATS).completed().length, 1);
      const again = device.statistics();
      rig.queue(STATS).add({ readable: [buffer([999, 7n], [free, 2n ** 40n + 1n])] });
      rig.kick(STATS);
      t.same(await asked, { free: 2 ** 40 + 1 });
      t.same(await again, { free: 2 ** 40 + 1 }, 'one buffer answers both');
      t.equal(rig.queue(STATS).completed().length, 0);
      rig.close();
    },
  );
}

t.test('§5.5.6.3 one buffer at a time is taken', async (t) => {
  const { rig } = start();
  for (let at = 0; at < 3; at++) rig.queue(STATS).add({ readable: [new Uint8Array(10)] });
  rig.kick(STATS);
  rig.pump();
  rig.message('statistics');
  t.equal(rig.queue(STATS).completed().length, 1);
  rig.message('statistics');
  rig.message('something else');
  t.equal(rig.queue(STATS).completed().length, 1);
  rig.close();
});

t.test('without a driver there are no statistics', async (t) => {
  const device = new BalloonDevice('balloon0');
  t.equal(await device.statistics(), undefined);
});

t.test('a pause gives the buffer of statistics back, and takes it again', async (t) => {
  const { device, rig, handler, all } = start();
  rig.queue(STATS).add({ readable: [new Uint8Array(10)] });
  rig.kick(STATS);
  rig.handOver(handler, all);
  t.same(rig.queue(STATS).completed(), []);
  void device.statistics();
  t.equal(rig.queue(STATS).completed().length, 1);
  rig.close();
});

for (const queue of [INFLATE, DEFLATE] as const) {
  t.test(`§5.5.6 a page outside RAM breaks the device (queue ${queue})`, async (t) => {
    for (const number of [(64 * MiB) / PAGE, 2 ** 20, 2 ** 32 - 1]) {
      const { rig, send } = start();
      page(rig, FREE).fill(FILL);
      send(queue, number);
      t.match(rig.brokenReason, /^(in|de)flateq: a page is outside guest RAM \(§5.5.6\)$/);
      send(INFLATE, FREE);
      t.same(rig.queue(INFLATE).completed(), []);
      t.ok(isFilled(rig, FREE, FILL), 'nothing more is served');
      rig.close();
    }
  });
}

t.test('a long request is served in turns', async (t) => {
  const { rig } = start();
  const numbers = Uint32Array.from({ length: 2500 }, (_, at) => FREE + at);
  for (const number of numbers) page(rig, number)[0] = FILL;
  rig.queue(INFLATE).add({ readable: [new Uint8Array(numbers.buffer)] });
  rig.kick(INFLATE);
  const left = (): number => numbers.filter((number) => page(rig, number)[0] === FILL).length;
  t.equal(left(), 2500 - 1024);
  t.same(rig.queue(INFLATE).completed(), []);
  rig.pump();
  t.equal(left(), 2500 - 2048);
  rig.pump();
  t.equal(left(), 0);
  t.equal(rig.queue(INFLATE).completed().length, 1);
  rig.close();
});

t.test('§5.5.6.7 whole pages that are reported as free are gone', async (t) => {
  const { rig } = start();
  rig.queue(REPORTING).add({ writable: [4 * PAGE, 2 * PAGE, 100] });
  rig.kick(REPORTING);
  const [done] = rig.queue(REPORTING).completed();
  t.equal(done?.written, 0);
  t.same([...new Set(done?.writable.subarray(0, 6 * PAGE))], [0]);
  t.same([...new Set(done?.writable.subarray(6 * PAGE))], [0xee], 'a part of a page stays');
  rig.close();
});

t.test('§5.5.6.7 many bytes are reported: in turns', async (t) => {
  const { rig } = start();
  const writable = Array.from({ length: 24 }, () => 4 * MiB);
  rig.queue(REPORTING).add({ writable, aliased: true });
  rig.kick(REPORTING);
  t.equal(rig.queue(REPORTING).completed().length, 0);
  rig.pump();
  t.equal(rig.queue(REPORTING).completed().length, 1);
  rig.close();
});

t.test('§5.5.6.7 pages that keep a value are left alone', async (t) => {
  for (const [poison, negotiated, gone] of [
    [0xaaaaaaaa, true, false],
    [0xaa000000, true, false],
    [0, true, true],
    [0xaaaaaaaa, false, true],
  ] as const) {
    const features = negotiated ? [...ALL, abi.VIRTIO_BALLOON_F_PAGE_POISON] : ALL;
    const { rig } = start({ features, poison });
    rig.queue(REPORTING).add({ writable: [PAGE] });
    rig.kick(REPORTING);
    const [done] = rig.queue(REPORTING).completed();
    t.equal(done?.writable[0], gone ? 0 : 0xee, `${poison} ${negotiated}`);
    rig.close();
  }
});

t.test('§5.5.6.5 hints are not asked for, and change nothing', async (t) => {
  const { device, rig } = start();
  t.equal(new DataView(device.config.buffer).getUint32(8, true), 0, 'VIRTIO_BALLOON_CMD_ID_STOP');
  rig.queue(HINT).add({ readable: [new Uint8Array(4)] });
  rig.queue(HINT).add({ writable: [PAGE] });
  rig.kick(HINT);
  const done = rig.queue(HINT).completed();
  t.equal(done.length, 2);
  t.equal(done[1]?.writable[0], 0xee);
  rig.close();
});

t.test('§5.5.4 the configuration: what is wanted, what there is', async (t) => {
  const { device, config } = start();
  const view = new DataView(config.buffer);
  device.wanted = 1234;
  t.same([device.wanted, view.getUint32(0, true)], [1234, 1234]);
  view.setUint32(4, 77, true);
  t.equal(device.actual, 77);
  const writable = [...device.configWriteMask].map((mask) => mask !== 0);
  t.same(
    writable,
    [0, 1, 0, 1].flatMap((on) => Array(4).fill(on === 1)),
  );
  view.setUint32(12, 5, true);
  device.reset();
  t.same([device.wanted, device.actual, view.getUint32(12, true)], [1234, 0, 0]);
  t.ok(device.iommuProblem());
  device.close();
});

t.test('§5.5.3 features by options', async (t) => {
  const offers = (device: BalloonDevice, bit: number): boolean =>
    (device.features & featureSet(bit)) !== 0n;
  const oom = abi.VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
  const reporting = abi.VIRTIO_BALLOON_F_PAGE_REPORTING;
  const plain = new BalloonDevice('balloon0');
  const strict = new BalloonDevice('balloon0', { deflateOnOom: false, reporting: false });
  t.same([offers(plain, oom), offers(plain, reporting)], [true, true]);
  t.same([offers(strict, oom), offers(strict, reporting)], [false, false]);
});

t.test('an interval: the driver is asked, and the last statistics are at hand', async (t) => {
  const device = new BalloonDevice('balloon0', { statsInterval: 1 });
  const asked = new Promise<unknown>((resolve) => {
    device.attach({ updateConfig: () => {}, readConfig: () => device.config, post: resolve });
  });
  const rig = new DeviceRig();
  const features = featureSet(VIRTIO_F_VERSION_1, ...ALL);
  rig.start(device.createHandler(), features, [64, 64, 64, 64, 64]);
  const entry = Uint8Array.of(abi.VIRTIO_BALLOON_S_MEMFREE, 0, 9, 0, 0, 0, 0, 0, 0, 0);
  rig.queue(STATS).add({ readable: [entry] });
  rig.kick(STATS);
  t.same(await device.statistics(), { free: 9 });
  const alive = setInterval(() => {}, 1000);
  t.equal(await asked, 'statistics');
  clearInterval(alive);
  device.close();
  rig.close();
});

t.test('whatever numbers come: named pages in RAM are gone, all others stay', async () => {
  const pages = (64 * MiB) / PAGE;
  const number = fc.oneof(
    { weight: 20, arbitrary: fc.integer({ min: FREE, max: FREE + 40 }) },
    { weight: 1, arbitrary: fc.integer({ min: pages, max: 2 ** 32 - 1 }) },
  );
  const { rig, handler, all, send } = start();
  fc.assert(
    fc.property(
      fc.array(number, { minLength: 1, maxLength: 30 }),
      fc.boolean(),
      (numbers, deflate) => {
        for (let at = 0; at <= 40; at++) page(rig, FREE + at).fill(FILL);
        const before = rig.brokenReason;
        send(deflate ? DEFLATE : INFLATE, ...numbers);
        const bad = numbers.some((named) => named >= pages);
        rig.queue(deflate ? DEFLATE : INFLATE).completed();
        for (let at = 0; at <= 40; at++) {
          const whole = isFilled(rig, FREE + at, FILL);
          const named = !deflate && numbers.includes(FREE + at);
          if (!named && !whole) throw new Error(`page ${at} was not named`);
          if (named && whole && !bad) throw new Error(`page ${at} is still there`);
        }
        if (!bad) return;
        if (before === undefined && rig.brokenReason === undefined) throw new Error('not broken');
        // The driver resets the device.
        rig.stop();
        rig.start(handler as QueueHandler, all, [64, 64, 64, 64, 64]);
      },
    ),
  );
  rig.close();
});
