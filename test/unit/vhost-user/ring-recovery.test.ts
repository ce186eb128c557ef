/** What a frontend makes of the rings of a backend that is gone, against what really happened. */
import fc from 'fast-check';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { recoverRing } from '../../../src/vhost-user/frontend/ring-recovery.ts';

const SIZE = 16;
const CONFIG = {
  index: 0,
  size: SIZE,
  descriptorArea: 0,
  driverArea: 0x1000,
  deviceArea: 0x2000,
  kickFd: -1,
  callFd: -1,
};
const VERSION_1 = featureSet(VIRTIO_F_VERSION_1);

/** A driver that takes the head that became free last, as Linux does, or the one free longest. */
class Model implements Disposable {
  readonly ram = new Ram(MiB);
  readonly free = Array.from({ length: SIZE }, (_, head) => head);
  readonly inFlight: number[] = [];
  /** Where each of them became available. */
  readonly #places: number[] = [];
  readonly #lifo: boolean;

  constructor(lifo: boolean) {
    this.#lifo = lifo;
  }

  get #memory() {
    return this.ram.memory;
  }

  get availIndex(): number {
    return this.#memory.readU16(0x1002);
  }

  get usedIndex(): number {
    return this.#memory.readU16(0x2002);
  }

  add(): void {
    // The limit: no request is overtaken by a whole ring of others.
    if ((this.#places[0] ?? this.availIndex) <= this.availIndex - SIZE) this.use(0);
    const head = this.#lifo ? this.free.pop() : this.free.shift();
    if (head === undefined) return;
    this.inFlight.push(head);
    this.#places.push(this.availIndex);
    this.#memory.writeU16(0x1004 + 2 * (this.availIndex % SIZE), head);
    this.#memory.writeU16(0x1002, (this.availIndex + 1) & 0xffff);
  }

  /** @param which of those in flight, 0 for the oldest */
  use(which: number): void {
    const [head] = this.inFlight.splice(which, 1);
    this.#places.splice(which, 1);
    if (head === undefined) return;
    this.free.push(head);
    this.#memory.writeU32(0x2004 + 8 * (this.usedIndex % SIZE), head);
    this.#memory.writeU16(0x2002, (this.usedIndex + 1) & 0xffff);
  }

  /** Heads that the next backend will find. */
  offered(): number[] {
    const heads: number[] = [];
    for (let at = this.usedIndex; at !== this.availIndex; at = (at + 1) & 0xffff) {
      heads.push(this.#memory.readU16(0x1004 + 2 * (at % SIZE)));
    }
    return heads;
  }

  [Symbol.dispose](): void {
    this.ram[Symbol.dispose]();
  }
}

t.test('one that works in order is always followed', (t) => {
  const steps = fc.array(fc.boolean(), { minLength: 1, maxLength: 200 });
  fc.assert(
    fc.property(steps, fc.boolean(), (adds, lifo) => {
      using model = new Model(lifo);
      for (const add of adds) {
        if (add) model.add();
        else model.use(0);
      }
      const state = recoverRing(model.ram.memory, CONFIG, VERSION_1, false);
      t.same(model.offered(), model.inFlight);
      return state.nextAvail === model.usedIndex && state.nextUsed === model.usedIndex;
    }),
  );
  t.end();
});

t.test('one that does not is followed where the rings show it, and never wrongly', (t) => {
  const steps = fc.array(fc.tuple(fc.boolean(), fc.nat(3)), { minLength: 20, maxLength: 300 });
  let followed = 0;
  fc.assert(
    fc.property(steps, fc.boolean(), (todo, lifo) => {
      using model = new Model(lifo);
      for (const [add, which] of todo) {
        if (add) model.add();
        else if (model.inFlight.length > 0) model.use(which % model.inFlight.length);
      }
      try {
        recoverRing(model.ram.memory, CONFIG, VERSION_1, false);
      } catch {
        return true;
      }
      followed++;
      const offered = model.offered();
      return (
        offered.length === model.inFlight.length &&
        model.inFlight.every((head) => offered.includes(head))
      );
    }),
    { numRuns: 1000 },
  );
  t.ok(followed > 250, `${followed} of 1000 followed`);
  t.end();
});

t.test('with a record, the rings are left as they are', (t) => {
  using model = new Model(true);
  for (let i = 0; i < 4; i++) model.add();
  model.use(2);
  const before = model.offered();
  const state = recoverRing(model.ram.memory, CONFIG, VERSION_1, true);
  t.same(state, { nextAvail: 1, nextUsed: 1 });
  t.same(model.offered(), before);
  t.end();
});

t.test('a packed ring does not show it, a record does', (t) => {
  using model = new Model(true);
  const features = VERSION_1 | featureSet(VIRTIO_F_RING_PACKED);
  t.throws(() => recoverRing(model.ram.memory, CONFIG, features, false), {
    code: 'E_VHOST_USER_LOST',
    message: /a packed ring does not show where it stopped; reset the device/,
  });
  t.same(recoverRing(model.ram.memory, CONFIG, features, true), {
    nextAvail: 0x8000,
    nextUsed: 0x8000,
  });
  t.end();
});
