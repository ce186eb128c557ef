/** The record of what is in flight: a device that dies at any store, and the one that comes after it. */
import fc from 'fast-check';
import t from 'tap';
import {
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { NativeMemory } from '../../../../src/host/native-memory.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import {
  InflightRegion,
  inflightRegionSize,
} from '../../../../src/virtio/queue/inflight/inflight-region.ts';
import { POP_CHAIN, POP_EMPTY, type Virtqueue } from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

const SIZE = 8;
/** More than the queue has. */
const ENTRIES = 11;
const FORMATS = [
  ['split', [VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC]],
  ['split, direct', [VIRTIO_F_VERSION_1]],
  ['packed', [VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED]],
  ['packed, direct', [VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED]],
] as const;

class Killed extends Error {}

/** A process that is killed before one of its stores to the record or to a ring's state. */
class Mortal implements Disposable {
  /** Stores that it may still make. */
  left = Number.POSITIVE_INFINITY;
  readonly #store = Atomics.store;
  readonly #mine = new WeakMap<object, (index: number, value: number) => void>();

  constructor() {
    const patched = (array: Uint16Array, index: number, value: number): number => {
      const own = this.#mine.get(array);
      if (own !== undefined) {
        own(index, value);
        return value;
      }
      this.spend();
      return this.#store(array, index, value);
    };
    Atomics.store = patched as typeof Atomics.store;
  }

  spend(): void {
    if (this.left === 0) throw new Killed();
    this.left--;
  }

  watched<T extends Uint8Array | Uint16Array | Uint32Array | Float64Array>(array: T): T {
    const proxy = new Proxy(array, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
      set: (target, key, value) => {
        this.spend();
        return Reflect.set(target, key, value, target);
      },
    });
    this.#mine.set(proxy, (index, value) => {
      this.spend();
      array[index] = value;
    });
    return proxy;
  }

  [Symbol.dispose](): void {
    Atomics.store = this.#store;
  }
}

/** A queue, its record, and the processes that serve it one after the other. */
class Subject implements Disposable {
  readonly f: QueueFixture;
  readonly record = new NativeMemory(inflightRegionSize(ENTRIES));
  readonly mortal = new Mortal();
  device: Virtqueue | undefined;
  /** Chains that this process has taken. */
  taken: { id: number; slots: number; first: number }[] = [];
  readonly back: number[] = [];

  constructor(features: readonly number[]) {
    this.f = new QueueFixture(features, { size: SIZE, ramSize: 2 ** 20, heapStart: 0 });
  }

  region(): InflightRegion {
    return new InflightRegion({ address: this.record.address, entries: ENTRIES });
  }

  open(): Virtqueue {
    const region = this.region();
    const watched = Object.create(region, {
      bytes: { value: this.mortal.watched(region.bytes) },
      halves: { value: this.mortal.watched(region.halves) },
      words: { value: this.mortal.watched(region.words) },
      doubles: { value: this.mortal.watched(region.doubles) },
    }) as InflightRegion;
    const { f } = this;
    return createVirtqueue(f.ram.memory, f.driver.config, f.features, watched);
  }

  /** Works as a process that is killed after so many stores. */
  live(stores: number, work: (device: Virtqueue) => void): void {
    this.mortal.left = stores;
    try {
      this.device ??= this.open();
      work(this.device);
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
      this.device = undefined;
      this.taken = [];
    }
    this.mortal.left = Number.POSITIVE_INFINITY;
  }

  pop(device: Virtqueue): boolean {
    const { chain } = this.f;
    const popped = device.pop(chain);
    if (popped < 0) throw new Error(`fault ${popped}`);
    if (popped !== POP_CHAIN) return false;
    const first = chain.readUint(0, 4);
    this.taken.push({ id: chain.id, slots: chain.slots, first });
    return true;
  }

  collect(): void {
    for (const { token } of this.f.driver.completed()) this.back.push(token);
  }

  [Symbol.dispose](): void {
    this.mortal[Symbol.dispose]();
    this.f[Symbol.dispose]();
  }
}

let added = 0;
const numbered = (): Uint8Array => new Uint8Array(Uint32Array.of(added++).buffer);

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ op: fc.constant('add'), n: fc.integer({ min: 0, max: 2 }) }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('pop'), n: fc.nat(3) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('push'), n: fc.nat(7) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('publish'), n: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('undo'), n: fc.nat(2) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('die'), n: fc.nat(12) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('collect'), n: fc.nat() }) },
);

for (const [name, features] of FORMATS) {
  t.test(`${name}: each buffer comes back once, whenever the device dies`, (t) => {
    let deaths = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
        using s = new Subject(features);
        const { driver } = s.f;
        let life = Number.POSITIVE_INFINITY;
        let sent = 0;
        for (const { op, n } of steps) {
          if (op === 'add') {
            if (driver.free < 2 + n) continue;
            driver.add({
              readable: [numbered()],
              writable: Array.from({ length: 1 + n }, () => 4),
            });
            sent++;
          } else if (op === 'collect') s.collect();
          else if (op === 'die') life = n;
          else {
            s.live(life, (device) => {
              if (op === 'pop') for (let i = 0; i <= n && s.pop(device); i++);
              else if (op === 'publish') device.publish();
              else if (op === 'push') {
                const [one] = s.taken.splice(n % Math.max(1, s.taken.length), 1);
                if (one !== undefined) device.push(one.id, one.slots, 4);
              } else if (s.taken.length === 0 && s.pop(device)) {
                // What is given back can only be what was taken last.
                device.undoPop(s.f.chain);
                s.taken.pop();
              }
            });
            if (s.device === undefined) {
              deaths++;
              life = Number.POSITIVE_INFINITY;
            }
          }
        }
        // The last one dies, too; its successor does all that is left.
        s.device = undefined;
        s.taken = [];
        s.live(Number.POSITIVE_INFINITY, (device) => {
          while (s.pop(device));
          const order = s.taken.map(({ first }) => first);
          if (order.some((one, i) => i > 0 && one < (order[i - 1] ?? 0))) {
            throw new Error(`taken out of order: ${order}`);
          }
          for (const { id, slots } of s.taken.splice(0)) device.push(id, slots, 4);
          device.publish();
        });
        s.collect();
        return s.back.length === sent && new Set(s.back).size === sent && driver.inFlight === 0;
      }),
      { numRuns: 1500 },
    );
    t.ok(deaths > 300, `${deaths} deaths`);
    t.end();
  });

  t.test(`${name}: what is left over may be given back, and is taken again`, (t) => {
    using s = new Subject(features);
    for (let i = 0; i < 3; i++) s.f.driver.add({ readable: [numbered()], writable: [4] });
    let device = s.open();
    s.pop(device);
    s.pop(device);
    device = s.open();
    t.equal(device.enableKicks(), true);
    s.taken = [];
    s.pop(device);
    s.pop(device);
    device.undoPop(s.f.chain);
    s.taken.pop();
    while (s.pop(device));
    t.equal(s.taken.length, 3);
    for (const { id, slots } of s.taken) device.push(id, slots, 4);
    device.publish();
    t.equal(device.enableKicks(), false);
    t.equal(s.f.driver.completed().length, 3);
    t.equal(s.open().pop(s.f.chain), POP_EMPTY);
    t.end();
  });

  t.test(`${name}: a record that a peer has scribbled on is refused, or harmless`, (t) => {
    let refused = 0;
    const scribbles = fc.array(
      fc.tuple(fc.nat(inflightRegionSize(ENTRIES) - 1), fc.integer({ min: 0, max: 255 })),
      { minLength: 1, maxLength: 6 },
    );
    fc.assert(
      fc.property(scribbles, fc.nat(4), (all, popped) => {
        using s = new Subject(features);
        for (let i = 0; i < 3; i++) s.f.driver.add({ readable: [numbered()], writable: [4] });
        const device = s.open();
        for (let i = 0; i < popped; i++) s.pop(device);
        for (const [at, value] of all) s.record.bytes[at] = value;
        try {
          const next = s.open();
          // The guest's rings suffer as by a bad driver: no exception, and no end is missing.
          for (let i = 0; i < 20; i++) {
            if (next.pop(s.f.chain) !== POP_CHAIN) break;
            next.push(s.f.chain.id, s.f.chain.slots, 4);
          }
          next.publish();
        } catch (error) {
          if ((error as { code?: string }).code !== 'E_INFLIGHT') throw error;
          refused++;
        }
      }),
      { numRuns: 1000 },
    );
    t.ok(refused > 50, `${refused} refused`);
    t.end();
  });
}
