/**
 * A network device's transmit queue (virtio 1.3 §5.1.6.2): each chain is a header and a packet,
 * which the kernel takes straight from guest RAM.
 *
 * HOT, measured by bench/groups/net.ts.
 */
import { EAGAIN } from '../../../abi/errno.ts';
import type { TapQueue } from '../../../backend/tap-queue.ts';
import type { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext } from '../../device.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, type Virtqueue } from '../../queue/virtqueue.ts';

/** Packets between two checks of the thread's other events. */
const BUDGET = 256;
/** Packets that are returned to the driver together. */
const BATCH = 32;
/** UIO_MAXIOV: more segments than the kernel takes in one call. */
const MAX_SEGMENTS = 1024;

/** From one activation to its end. */
export class TransmitQueue {
  /** Packets that the host rejected. */
  dropped = 0;
  /** The tap was full: nothing is sent until it is writable. */
  blocked = false;
  readonly #served: ActiveQueue;
  readonly #virtqueue: Virtqueue;
  readonly #tap: TapQueue;
  readonly #context: HandlerContext;
  readonly #chain: DescriptorChain;

  constructor(served: ActiveQueue, tap: TapQueue, context: HandlerContext) {
    this.#served = served;
    this.#virtqueue = served.virtqueue;
    this.#tap = tap;
    this.#context = context;
    this.#chain = new DescriptorChain(context.memory, served.virtqueue.size);
  }

  /** Sends what the driver made available. Sets `blocked` when the tap is full. */
  run(): void {
    const queue = this.#virtqueue;
    const chain = this.#chain;
    let pending = 0;
    queue.disableKicks();
    for (let budget = BUDGET; budget > 0; budget--) {
      const popped = queue.pop(chain);
      if (popped !== POP_CHAIN) {
        this.#served.publish();
        pending = 0;
        if (popped < 0) this.#context.broken(`transmit queue: ${faultText(popped)}`);
        if (popped < 0 || !queue.enableKicks()) return;
        queue.disableKicks();
        continue;
      }
      const segments = chain.readable;
      const sent = segments <= MAX_SEGMENTS ? this.#tap.transmit(chain.iovecAddress, segments) : -1;
      if (sent === -EAGAIN) {
        queue.undoPop(chain);
        this.blocked = true;
        this.#served.publish();
        return;
      }
      // The header comes from the guest: the kernel checks it and rejects invalid ones.
      if (sent <= 0) this.dropped++;
      queue.push(chain.id, chain.slots, 0);
      if (++pending === BATCH) {
        this.#served.publish();
        pending = 0;
      }
    }
    this.#served.publish();
    this.#served.kickAgain();
  }
}
