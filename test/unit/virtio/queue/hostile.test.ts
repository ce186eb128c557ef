/**
 * A driver that writes whatever it likes, whenever it likes: there are only valid chains and
 * faults, never an exception, never a byte outside of guest RAM, and every call returns.
 */
import fc from 'fast-check';
import t from 'tap';
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { faultText, POP_CHAIN } from '../../../../src/virtio/queue/virtqueue.ts';
import { LAP_0, LAP_1, QueueFixture } from '../../../support/rigs/virtqueue.ts';

const SIZE = 8;
const RAM = 2 * MiB;

const rarely = <T>(good: fc.Arbitrary<T>, ...bad: fc.Arbitrary<T>[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 20, arbitrary: good }, ...bad.map((arbitrary) => ({ weight: 1, arbitrary })));

/** Each field mostly as a driver may write it: a flag or two, buffers and tables in RAM. */
const descriptor = fc.record({
  addr: rarely(
    fc.bigInt(BigInt(MiB), BigInt(MiB) + 2048n),
    fc.constantFrom(BigInt(RAM) - 1n, 0xc000_0000n, 2n ** 32n, 2n ** 53n, 2n ** 64n - 1n),
    fc.bigInt(0n, 2n ** 64n - 1n),
  ),
  len: rarely(
    fc.integer({ min: 1, max: 8 }).map((entries) => entries * 16),
    fc.nat(64),
    fc.constantFrom(RAM, 0x8000_0000, 0xffff_ffff, 0xffff_fff0),
    fc.nat(2 ** 32 - 1),
  ),
  flags: rarely(fc.constantFrom(0, 1, 1, 2, 2, 3, 4), fc.nat(7), fc.nat(0xffff)),
  nextOrId: rarely(fc.nat(SIZE - 1), fc.nat(SIZE), fc.nat(0xffff)),
});

type Step =
  | { readonly op: 'descriptors' | 'table'; readonly at: number; readonly values: Descriptor[] }
  | { readonly op: 'available'; readonly head: number }
  | { readonly op: 'driver' | 'device'; readonly at: number; readonly value: number }
  | { readonly op: 'pop' | 'push' | 'undo' | 'publish' | 'enable' | 'disable' | 'add' };
type Descriptor = typeof descriptor extends fc.Arbitrary<infer D> ? D : never;

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constantFrom('descriptors', 'table'),
      at: fc.nat(SIZE - 1),
      values: fc.array(descriptor, { minLength: 1, maxLength: SIZE }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('available'),
      head: rarely(fc.nat(SIZE - 1), fc.nat(0xffff)),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constantFrom('driver', 'device'),
      at: fc.nat(SIZE + 3),
      value: fc.oneof(fc.nat(2 * SIZE), fc.nat(0xffff)),
    }),
  },
  {
    weight: 20,
    arbitrary: fc.record({
      op: fc.constantFrom('pop', 'pop', 'pop', 'push', 'push', 'publish', 'add'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constantFrom('undo', 'enable', 'disable') }) },
);

class Attack {
  readonly #f: QueueFixture;
  readonly #packed: boolean;
  readonly #held: { id: number; slots: number; room: number }[] = [];
  chains = 0;
  fault = 0;

  constructor(f: QueueFixture, packed: boolean) {
    this.#f = f;
    this.#packed = packed;
  }

  run(next: Step): void {
    const { device, driver, chain } = this.#f;
    switch (next.op) {
      case 'descriptors':
        next.values.forEach((value, i) => {
          this.#write(driver.descriptorArea, (next.at + i) % SIZE, value);
        });
        return;
      case 'table':
        next.values.forEach((value, i) => {
          this.#write(this.#f.heap.view(MiB + 128 * next.at, 16 * SIZE), i, value);
        });
        return;
      case 'available':
        this.#makeAvailable(next.head);
        return;
      case 'driver':
      case 'device': {
        const area = next.op === 'driver' ? driver.driverArea : driver.deviceArea;
        area.setUint16((next.at * 2) % (area.byteLength - 1), next.value, true);
        return;
      }
      case 'add':
        if (driver.free > 2) driver.add({ readable: [new Uint8Array(3)], writable: [5] });
        return;
      case 'pop':
        this.#pop();
        return;
      case 'push': {
        const oldest = this.#held.shift();
        if (oldest !== undefined) device.push(oldest.id, oldest.slots, oldest.room);
        return;
      }
      case 'undo': {
        const last = this.#held.pop();
        if (last === undefined) return;
        chain.slots = last.slots;
        device.undoPop(chain);
        return;
      }
      case 'publish':
        device.publish();
        return;
      case 'enable':
        device.enableKicks();
        return;
      case 'disable':
        device.disableKicks();
        return;
    }
  }

  #pop(): void {
    const { chain, device } = this.#f;
    const result = device.pop(chain);
    if (result < 0) {
      if (!faultText(result).includes('§')) throw new Error(`fault ${result} has no clause`);
      if (this.fault !== 0 && this.fault !== result) throw new Error('the fault changed');
      this.fault = result;
      return;
    }
    if (this.fault !== 0) throw new Error('a broken queue continued');
    if (result !== POP_CHAIN) return;
    this.chains++;
    let [readable, writable] = [0, 0];
    for (let i = 0; i < chain.count; i++) {
      const [offset, length] = [chain.offset[i] as number, chain.length[i] as number];
      if (!(offset >= 0 && length > 0 && offset + length <= RAM)) throw new Error('out of RAM');
      if (i < chain.readable) readable += length;
      else writable += length;
      const low = chain.iovec[i * 4] as number;
      const high = chain.iovec[i * 4 + 1] as number;
      const base = high * 2 ** 32 + low;
      if (base !== this.#f.ram.memory.address + offset) throw new Error('iovec out of step');
      if (chain.iovec[i * 4 + 2] !== length) throw new Error('iovec length out of step');
    }
    if (readable !== chain.readableLength || writable !== chain.writableLength) {
      throw new Error('lengths out of step');
    }
    if (chain.slots < 1 || chain.slots > SIZE) throw new Error('slots out of range');
    this.#held.push({ id: chain.id, slots: chain.slots, room: chain.writableLength });
    if (this.#held.length > SIZE) throw new Error('more chains in flight than slots');
  }

  /** Raises the index, or marks the next descriptor as the device will look for it. */
  #makeAvailable(head: number): void {
    const { driver, device } = this.#f;
    if (!this.#packed) {
      this.#f.makeAvailable(head);
      return;
    }
    const { nextAvail } = device.state();
    for (let i = 0; i < SIZE; i++) {
      const place = ((nextAvail & 0x7fff) + i) % SIZE;
      const wrapped = place < (nextAvail & 0x7fff) ? 0x8000 : 0;
      const lap = ((nextAvail ^ wrapped) & 0x8000) === 0 ? LAP_0 : LAP_1;
      const at = place * 16 + 14;
      const flags = driver.descriptorArea.getUint16(at, true) & ~(LAP_0 | LAP_1);
      driver.descriptorArea.setUint16(at, flags | lap, true);
      if ((flags & 1) === 0 || head % 50 === 0) return;
    }
  }

  #write(table: DataView, index: number, { addr, len, flags, nextOrId }: Descriptor): void {
    table.setBigUint64(index * 16, addr, true);
    table.setUint32(index * 16 + 8, len, true);
    table.setUint16(index * 16 + (this.#packed ? 14 : 12), flags, true);
    table.setUint16(index * 16 + (this.#packed ? 12 : 14), nextOrId, true);
  }
}

const features = fc.subarray([VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER]);

for (const [name, format] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`${name}: any memory gives valid chains or faults`, async (t) => {
    let chains = 0;
    const faults = new Set<number>();
    fc.assert(
      fc.property(features, fc.array(step, { maxLength: 120, size: 'max' }), (bits, steps) => {
        using f = new QueueFixture([...bits, ...format], { size: SIZE, ramSize: RAM });
        const attack = new Attack(f, name === 'packed');
        for (const next of steps) attack.run(next);
        chains += attack.chains;
        faults.add(attack.fault);
      }),
      { numRuns: 1000, seed: 20260102 },
    );
    t.ok(chains > 2000, `the runs came through to ${chains} chains`);
    t.ok(faults.size >= 7, `and to faults ${[...faults].sort().join()}`);
  });
}
