/**
 * The data half of a network device whose network is this thread's memory: a sink that discards
 * packets, a source that always has one, or an echo that sends each one back.
 *
 * HOT, measured by bench/groups/vhost-user.ts.
 */
import { virtio_net_hdr } from '../../../abi/virtio-net.ts';
import {
  COPY,
  COPY_BYTES,
  COPY_SOURCE,
  COPY_TARGET,
  CopyList,
} from '../../../host/native-addon.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import type { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, POP_EMPTY, type Virtqueue } from '../../queue/virtqueue.ts';

/** The network's behavior. */
export type MemoryNetwork = 'sink' | 'source' | 'echo';

/** Options from the control half; cloneable. */
export interface NetMemoryOptions {
  readonly network: MemoryNetwork;
  /** Bytes of the source's frames. */
  readonly frame: number;
}

const RECEIVE = 0;
const TRANSMIT = 1;
const HEADER = virtio_net_hdr.size;
/** Packets between two checks of the thread's other events. */
const BUDGET = 256;
/** Packets that are returned to the driver together. */
const BATCH = 32;

class NetMemoryHandler implements QueueHandler {
  readonly #network: MemoryNetwork;
  /** The header of every received packet, §5.1.6.4.1. */
  readonly #header = new NativeMemory(HEADER);
  /** Header and frame of the source. */
  readonly #packet: NativeMemory;
  /** What is copied before a batch is returned: a packet, or its header and its frame. */
  readonly #copies = new CopyList(2 * BATCH);
  #noted = 0;
  #address = 0;
  #context: HandlerContext | null = null;
  #receive: ActiveQueue | null = null;
  #transmit: ActiveQueue | null = null;
  #received: DescriptorChain | null = null;
  #transmitted: DescriptorChain | null = null;
  readonly #bounce = new Uint8Array(HEADER + 65536);

  constructor({ network, frame }: NetMemoryOptions) {
    this.#network = network;
    this.#header.bytes[virtio_net_hdr.num_buffers.offset] = 1;
    this.#packet = new NativeMemory(HEADER + frame);
    const { bytes } = this.#packet;
    bytes.set(this.#header.bytes);
    // Broadcast, from a locally administered address, of an EtherType for experiments.
    bytes.fill(0xff, HEADER, HEADER + 6);
    bytes.set([0x02, 0, 0, 0, 0, 1, 0x88, 0xb5], HEADER + 6);
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#address = context.memory.address;
    this.#receive = context.queues[RECEIVE] ?? null;
    this.#transmit = context.queues[TRANSMIT] ?? null;
    this.#received = new DescriptorChain(context.memory);
    this.#transmitted = new DescriptorChain(context.memory);
  }

  kick(queue: number): void {
    if (queue === TRANSMIT) {
      if (this.#network === 'echo') this.#echo();
      else this.#serve(this.#transmit, this.#transmitted, false);
    } else if (this.#network === 'source') {
      this.#serve(this.#receive, this.#received, true);
    }
  }

  stop(): void {
    this.#context = null;
    this.#receive = null;
    this.#transmit = null;
  }

  /** Serves one queue. @param supplies whether its buffers are filled with the source's packet */
  #serve(served: ActiveQueue | null, chain: DescriptorChain | null, supplies: boolean): void {
    if (served === null || chain === null) return;
    const queue = served.virtqueue;
    queue.disableKicks();
    for (let budget = BUDGET; budget > 0; budget -= BATCH) {
      let popped = POP_CHAIN;
      for (let left = BATCH; left > 0; left--) {
        popped = queue.pop(chain);
        if (popped !== POP_CHAIN) break;
        queue.push(chain.id, chain.slots, supplies ? this.#supply(chain) : 0);
      }
      this.#copyBatch();
      served.publish();
      if (popped !== POP_CHAIN && !this.#ask(queue, popped)) return;
    }
    served.kickAgain();
  }

  #echo(): void {
    const transmit = this.#transmit;
    const receive = this.#receive;
    if (transmit === null) return;
    const queue = transmit.virtqueue;
    queue.disableKicks();
    for (let budget = BUDGET; budget > 0; budget -= BATCH) {
      const popped = this.#echoBatch(queue, receive === null ? null : receive.virtqueue);
      this.#copyBatch();
      if (receive !== null) receive.publish();
      transmit.publish();
      if (popped !== POP_CHAIN && !this.#ask(queue, popped)) return;
    }
    transmit.kickAgain();
  }

  /** @returns POP_CHAIN after a whole batch, else what ended it */
  #echoBatch(transmit: Virtqueue, receive: Virtqueue | null): number {
    const chain = this.#transmitted;
    const room = this.#received;
    if (chain === null || room === null) return POP_EMPTY;
    for (let left = BATCH; left > 0; left--) {
      const popped = transmit.pop(chain);
      if (popped !== POP_CHAIN) return popped;
      // No buffer to receive into: the packet is lost, as on any network.
      const found = receive === null ? POP_EMPTY : receive.pop(room);
      if (found < 0) {
        this.#context?.broken(`receive queue: ${faultText(found)}`);
        return found;
      }
      if (receive !== null && found === POP_CHAIN) {
        receive.push(room.id, room.slots, this.#send(chain, room));
      }
      transmit.push(chain.id, chain.slots, 0);
    }
    return POP_CHAIN;
  }

  #copyBatch(): void {
    this.#copies.run(this.#noted);
    this.#noted = 0;
  }

  /** The queue is empty, or broken. Returns true when it is no longer empty. */
  #ask(queue: Virtqueue, popped: number): boolean {
    if (popped < 0) {
      this.#context?.broken(faultText(popped));
      return false;
    }
    if (!queue.enableKicks()) return false;
    queue.disableKicks();
    return true;
  }

  /** The source's packet. Returns the bytes written, 0 when there is too little room. */
  #supply(to: DescriptorChain): number {
    const { bytes, address } = this.#packet;
    if (to.writableLength < bytes.length) return 0;
    if (to.count > 1) {
      to.write(0, bytes);
    } else {
      const { numbers } = this.#copies;
      const at = this.#noted++ * COPY;
      numbers[at + COPY_TARGET] = this.#address + (to.offset[0] as number);
      numbers[at + COPY_SOURCE] = address;
      numbers[at + COPY_BYTES] = bytes.length;
    }
    return bytes.length;
  }

  /** Header and frame. Returns the bytes written, 0 when there is too little room. */
  #send(from: DescriptorChain, to: DescriptorChain): number {
    const length = from.readableLength;
    if (length < HEADER || length > to.writableLength || length > this.#bounce.length) return 0;
    if (from.count === 1 && to.count === 1) {
      const { numbers } = this.#copies;
      const target = this.#address + (to.offset[0] as number);
      const header = this.#noted * COPY;
      numbers[header + COPY_TARGET] = target;
      numbers[header + COPY_SOURCE] = this.#header.address;
      numbers[header + COPY_BYTES] = HEADER;
      const frame = header + COPY;
      numbers[frame + COPY_TARGET] = target + HEADER;
      numbers[frame + COPY_SOURCE] = this.#address + (from.offset[0] as number) + HEADER;
      numbers[frame + COPY_BYTES] = length - HEADER;
      this.#noted += 2;
    } else {
      const bounce = this.#bounce.subarray(0, length);
      from.read(0, bounce);
      bounce.set(this.#header.bytes);
      to.write(0, bounce);
    }
    return length;
  }
}

/** Makes the data half; called in the thread that serves it. */
export function createHandler(options: unknown): QueueHandler {
  return new NetMemoryHandler(options as NetMemoryOptions);
}
