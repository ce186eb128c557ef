/** The entropy device (virtio 1.3 §5.4): fills the driver's buffers from the host's getrandom(2). */
import { randomFillSync } from 'node:crypto';
import type {
  ActiveQueue,
  HandlerContext,
  HandlerThread,
  QueueHandler,
  QueueSpec,
  VirtioDevice,
} from '../device.ts';
import { DescriptorChain } from '../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../queue/virtqueue.ts';

const VIRTIO_ID_ENTROPY = 4;
/** PCI: unclassified, what QEMU shows. */
const PCI_CLASS_OTHERS = 0x00ff00;
const DEFAULT_QUEUE_SIZE = 64;

/** The most bytes that one buffer gets; the driver asks again (§5.4.6). */
const MAX_BYTES = 64 * 1024;
/** Buffers filled before the rest of the thread gets its turn. */
const KICK_BUDGET = 16;

/** An entropy device. */
export interface RngOptions {
  /** Short name for messages, e.g. `rng0`. */
  readonly name: string;
  /** Descriptors of the queue, a power of two. Default 64. */
  readonly queueSize?: number;
}

/** Makes an entropy device. */
export function createRngDevice(options: RngOptions): VirtioDevice {
  return new RngDevice(options);
}

class RngDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = VIRTIO_ID_ENTROPY;
  readonly pciClass = PCI_CLASS_OTHERS;
  readonly features = 0n;
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array = new Uint8Array(0);
  readonly thread: HandlerThread = { kind: 'main' };

  constructor(options: RngOptions) {
    this.name = options.name;
    this.queues = [{ name: 'requestq', maxSize: options.queueSize ?? DEFAULT_QUEUE_SIZE }];
  }

  createHandler(): QueueHandler {
    return new RngHandler();
  }

  close(): void {}
}

class RngHandler implements QueueHandler {
  readonly #random = new Uint8Array(MAX_BYTES);
  #queue: ActiveQueue | null = null;
  #chain: DescriptorChain | null = null;
  #broken: (reason: string) => void = () => {};

  start(context: HandlerContext): void {
    const queue = context.queues[0];
    if (queue === undefined) return;
    this.#queue = queue;
    this.#chain = new DescriptorChain(context.memory, queue.virtqueue.size);
    this.#broken = (reason) => context.broken(reason);
  }

  kick(_queue: number): void {
    if (this.#queue === null || this.#chain === null) return;
    if (this.#serve(this.#queue, this.#chain)) this.#queue.kickAgain();
  }

  ready(): void {}

  stop(): void {
    this.#queue = null;
  }

  /** Returns true when buffers may be left. */
  #serve(queue: ActiveQueue, chain: DescriptorChain): boolean {
    const { virtqueue } = queue;
    let filled = 0;
    do {
      let popped = virtqueue.pop(chain);
      while (popped === POP_CHAIN) {
        virtqueue.push(chain.id, chain.slots, this.#fill(chain));
        if (++filled === KICK_BUDGET) break;
        popped = virtqueue.pop(chain);
      }
      if (virtqueue.publish()) queue.interrupt();
      if (popped < 0) {
        this.#queue = null;
        this.#broken(faultText(popped));
        return false;
      }
    } while (filled < KICK_BUDGET && virtqueue.enableKicks());
    return filled === KICK_BUDGET;
  }

  /** §5.4.6.2: at least one byte, at most the whole buffer. A buffer without room gets none. */
  #fill(chain: DescriptorChain): number {
    const bytes = this.#random.subarray(0, Math.min(chain.writableLength, MAX_BYTES));
    randomFillSync(bytes);
    const written = chain.write(0, bytes);
    // What the guest got is nobody else's to read.
    bytes.fill(0);
    return written;
  }
}
