/**
 * A split and a packed queue, side by side, against a model that knows no rings: whatever the
 * order of operations, buffers come out as they went in, and neither side is left asleep.
 */
import fc from 'fast-check';
import t from 'tap';
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import { POP_CHAIN, POP_EMPTY } from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

const SIZE = 8;

type Operation =
  | { readonly op: 'add'; readonly readable: number[]; readonly writable: number[] }
  | { readonly op: 'pop' | 'undo' | 'publish' | 'disable' | 'enable' | 'hand over' | 'interrupts' }
  | { readonly op: 'push'; readonly which: number; readonly written: number }
  | { readonly op: 'complete' };

const lengths = fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 3 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ op: fc.constant('add'), readable: lengths, writable: lengths }),
  },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('pop') }) },
  {
    weight: 5,
    arbitrary: fc.record({ op: fc.constant('push'), which: fc.nat(7), written: fc.nat(120) }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('publish') }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('complete') }) },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constantFrom('undo', 'disable', 'enable', 'hand over', 'interrupts'),
    }),
  },
);

interface Popped {
  readonly token: number;
  readonly id: number;
  readonly slots: number;
  readonly written: Uint8Array;
}

/** One queue, the operations on it, and what must come out. */
class Subject {
  readonly #f: QueueFixture;
  readonly #inOrder: boolean;
  /** Added and not popped, oldest first; then popped; then pushed; then published. */
  #waiting: { token: number; readable: number[]; writable: number[] }[] = [];
  #popped: (Popped & { readonly request: Subject['request'] })[] = [];
  /** Tokens as they were popped; those that the queue may release in order. */
  #popOrder: number[] = [];
  #order: number[] = [];
  #pushed = new Map<number, Uint8Array>();
  #pushOrder: number[] = [];
  #published: { token: number; written: Uint8Array }[] = [];
  #kicksOn = true;
  #interruptsOn = true;
  /** The device must look, or the driver must look. */
  #deviceAwake = true;
  #driverAwake = true;
  declare request: { token: number; readable: number[]; writable: number[] };

  constructor(f: QueueFixture, inOrder: boolean) {
    this.#f = f;
    this.#inOrder = inOrder;
  }

  run(step: Operation): void {
    switch (step.op) {
      case 'add':
        this.#add(step.readable, step.writable);
        return;
      case 'pop':
        this.#pop();
        return;
      case 'undo':
        this.#undo();
        return;
      case 'push':
        this.#push(step.which, step.written);
        return;
      case 'publish':
        this.#publish();
        return;
      case 'complete':
        this.#complete();
        return;
      case 'disable':
        this.#f.device.disableKicks();
        this.#kicksOn = false;
        return;
      case 'enable':
        this.#enable();
        return;
      case 'interrupts':
        this.#interruptsOn = !this.#interruptsOn;
        if (!this.#interruptsOn) this.#f.driver.disableInterrupts();
        else if (this.#f.driver.enableInterrupts()) this.#driverAwake = true;
        return;
      case 'hand over':
        this.#handOver();
        return;
    }
  }

  /** Lets both sides continue while they are awake: everything must come back. */
  settle(): void {
    if (!this.#interruptsOn) this.run({ op: 'interrupts' });
    this.#enable();
    this.#driverAwake = true;
    for (let turn = 0; turn < 10 && (this.#deviceAwake || this.#driverAwake); turn++) {
      this.#deviceAwake = false;
      for (;;) {
        const before = this.#waiting.length;
        this.#pop();
        if (before === this.#waiting.length) break;
      }
      while (this.#popped.length > 0) this.#push(0, 3);
      this.#publish();
      this.#enable();
      if (this.#driverAwake) this.#complete();
      this.#driverAwake = false;
    }
    same(this.#f.driver.inFlight, 0, 'buffers that never came back');
    same(this.#f.driver.free, SIZE, 'slots that never came back');
  }

  #add(readable: number[], writable: number[]): void {
    const { driver } = this.#f;
    if (readable.length + writable.length === 0) return;
    if (driver.free < readable.length + writable.length) return;
    const bytes = readable.map((length, i) => new Uint8Array(length).fill(length + i));
    const token = driver.add({ readable: bytes, writable });
    this.#waiting.push({ token, readable, writable });
    if (driver.kick()) this.#deviceAwake = true;
    else if (this.#kicksOn && !this.#deviceAwake) throw new Error('a kick was lost');
  }

  #pop(): void {
    const { chain, device } = this.#f;
    const next = this.#waiting.shift();
    same(device.pop(chain), next === undefined ? POP_EMPTY : POP_CHAIN, 'pop');
    if (next === undefined) return;
    const expected = next.readable.flatMap((length, i) => new Array(length).fill(length + i));
    const got = new Uint8Array(chain.readableLength);
    chain.read(0, got);
    same(got.join(), expected.join(), 'readable bytes');
    const room = next.writable.reduce((sum, length) => sum + length, 0);
    same(chain.writableLength, room, 'writable bytes');
    const written = new Uint8Array(room).fill(next.token & 0x7f);
    chain.write(0, written);
    const { id, slots } = chain;
    this.#popped.push({ token: next.token, id, slots, written, request: next });
    this.#popOrder.push(next.token);
    this.#order.push(next.token);
  }

  #undo(): void {
    const last = this.#popped.at(-1);
    if (last === undefined || this.#popOrder.at(-1) !== last.token) return;
    this.#popped.pop();
    this.#popOrder.pop();
    this.#order.pop();
    const { chain } = this.#f;
    chain.slots = last.slots;
    this.#f.device.undoPop(chain);
    this.#waiting.unshift(last.request);
    this.#deviceAwake = true;
  }

  #push(which: number, length: number): void {
    const [chosen] = this.#popped.splice(which % Math.max(1, this.#popped.length), 1);
    if (chosen === undefined) return;
    const written = chosen.written.subarray(0, length);
    this.#f.device.push(chosen.id, chosen.slots, written.length);
    this.#pushed.set(chosen.token, written);
    this.#pushOrder.push(chosen.token);
    if (!this.#inOrder) this.#order.splice(this.#order.indexOf(chosen.token), 1);
  }

  #publish(): void {
    const before = this.#published.length;
    const ready = this.#inOrder ? this.#order : this.#pushOrder;
    while (ready.length > 0 && this.#pushed.has(ready[0] as number)) {
      const token = ready.shift() as number;
      this.#published.push({ token, written: this.#pushed.get(token) as Uint8Array });
      this.#pushed.delete(token);
    }
    if (this.#inOrder) this.#pushOrder = [];
    const news = this.#published.length > before;
    const interrupt = this.#f.device.publish();
    if (interrupt && !news) throw new Error('an interrupt for nothing');
    if (interrupt) this.#driverAwake = true;
    else if (news && this.#interruptsOn && !this.#driverAwake) throw new Error('interrupt lost');
  }

  #complete(): void {
    const done = this.#f.driver.completed();
    same(
      done.map(({ token, data }) => `${token}: ${data.join()}`).join('\n'),
      this.#published.map(({ token, written }) => `${token}: ${written.join()}`).join('\n'),
      'completed buffers',
    );
    this.#published = [];
    if (this.#interruptsOn) this.#driverAwake = false;
  }

  #enable(): void {
    const more = this.#f.device.enableKicks();
    this.#kicksOn = true;
    same(more, this.#waiting.length > 0, 'enableKicks');
    this.#deviceAwake = more;
  }

  /** As a data half stops: everything pushed and published, or given back. */
  #handOver(): void {
    if (this.#inOrder) while (this.#popped.length > 0) this.#push(0, 1);
    while (this.#popped.length > 0) {
      const before = this.#popped.length;
      this.#undo();
      if (this.#popped.length === before) this.#push(before - 1, 1);
    }
    this.#publish();
    this.#f.handOver();
    this.#kicksOn = true;
    this.#deviceAwake = true;
  }
}

function same(got: unknown, expected: unknown, what: string): void {
  if (got !== expected) throw new Error(`${what}: ${String(got)} instead of ${String(expected)}`);
}

const features = fc.subarray([VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER]);

t.test('split and packed queues do what the model does', async (t) => {
  fc.assert(
    fc.property(
      features,
      fc.array(operation, { maxLength: 150, size: 'max' }),
      (bits, operations) => {
        for (const format of [[], [VIRTIO_F_RING_PACKED]]) {
          using f = new QueueFixture([...bits, ...format], { size: SIZE });
          const subject = new Subject(f, bits.includes(VIRTIO_F_IN_ORDER));
          for (const step of operations) subject.run(step);
          subject.settle();
        }
      },
    ),
    { numRuns: 300, seed: 20260101 },
  );
  t.pass('300 random runs on each format');
});
