/** Writes a record of everything that happens between a data half and its queues. HOT while tracing. */
import { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue, type VringState } from '../../queue/virtqueue.ts';
import { ObservedHandler } from '../observation.ts';
import * as record from './trace-record.ts';
import { whomOf } from './trace-record.ts';
import { TraceWriter } from './trace-ring.ts';

/** A data half and its queues, traced. */
export class TracingHandler extends ObservedHandler {
  readonly #writer: TraceWriter;
  readonly #device: number;

  /** @param ring no other thread writes to it while this one serves */
  constructor(inner: QueueHandler, ring: SharedArrayBuffer, device: number) {
    super(inner);
    this.#writer = new TraceWriter(ring);
    this.#device = device;
  }

  override start(context: HandlerContext): void {
    this.#writer.write(record.SERVED, whomOf(this.#device));
    super.start(context);
  }

  override kick(queue: number): void {
    const whom = whomOf(this.#device, queue);
    this.#writer.write(record.KICK, whom);
    try {
      super.kick(queue);
    } finally {
      this.#writer.write(record.KICK_END, whom);
    }
  }

  override ready(token: number, events: number): void {
    const whom = whomOf(this.#device);
    this.#writer.write(record.READY, whom, token, events);
    try {
      super.ready(token, events);
    } finally {
      this.#writer.write(record.READY_END, whom, token, events);
    }
  }

  override stop(): void {
    super.stop();
    this.#writer.write(record.STOPPED, whomOf(this.#device));
  }

  protected override wrap(queue: ActiveQueue): ActiveQueue {
    const whom = whomOf(this.#device, queue.virtqueue.index);
    return new ActiveQueue(new TracingQueue(queue.virtqueue, this.#writer, whom), {
      ...queue.host,
      interrupt: (index) => {
        queue.host.interrupt(index);
        this.#writer.write(record.INTERRUPT, whom);
      },
    });
  }
}

/** The bits of a chain's id that are the head, or the packed ring's buffer id: in-order queues add a place. */
const ID_BITS = 0xffff;

class TracingQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  readonly #inner: Virtqueue;
  readonly #writer: TraceWriter;
  readonly #whom: number;
  #pushed = 0;

  constructor(inner: Virtqueue, writer: TraceWriter, whom: number) {
    this.index = inner.index;
    this.size = inner.size;
    this.#inner = inner;
    this.#writer = writer;
    this.#whom = whom;
  }

  pop(chain: DescriptorChain): number {
    const result = this.#inner.pop(chain);
    if (result === POP_CHAIN) this.#popped(chain);
    return result;
  }

  #popped(chain: DescriptorChain): void {
    const writer = this.#writer;
    const { count, readable, memory } = chain;
    const id = chain.id & ID_BITS;
    writer.write(record.POP, this.#whom, id, count, chain.readableLength, chain.writableLength);
    for (let i = 0; i < count; i++) {
      const gpa = memory.gpaOf(chain.offset[i] as number);
      const length = chain.length[i] as number;
      writer.write(record.SEGMENT, this.#whom, i, i < readable ? 0 : 1, gpa, length);
    }
  }

  undoPop(chain: DescriptorChain): void {
    this.#inner.undoPop(chain);
    this.#writer.write(record.UNDO_POP, this.#whom, chain.id & ID_BITS);
  }

  push(id: number, slots: number, written: number): void {
    this.#inner.push(id, slots, written);
    this.#pushed++;
    this.#writer.write(record.PUSH, this.#whom, id & ID_BITS, slots, written);
  }

  publish(): boolean {
    const wanted = this.#inner.publish();
    if (this.#pushed === 0) return wanted;
    this.#writer.write(record.PUBLISH, this.#whom, this.#pushed, wanted ? 1 : 0);
    this.#pushed = 0;
    return wanted;
  }

  enableKicks(): boolean {
    const more = this.#inner.enableKicks();
    this.#writer.write(record.KICKS_ON, this.#whom, more ? 1 : 0);
    return more;
  }

  disableKicks(): void {
    this.#inner.disableKicks();
    this.#writer.write(record.KICKS_OFF, this.#whom);
  }

  state(): VringState {
    return this.#inner.state();
  }
}
