/**
 * The data half of a network device whose network is this thread's memory: a sink that throws
 * packets away, a source that has one at any time, or an echo that sends each one back.
 *
 * HOT, measured by bench/groups/vhost-user.ts.
 */
import { VIRTIO_NET_F_MRG_RXBUF, virtio_net_hdr } from '../../../abi/virtio-net.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { HandlerContext, QueueHandler, ServedQueue } from '../../device.ts';
import { hasFeature } from '../../features.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, type Virtqueue } from '../../queue/virtqueue.ts';

/** What the network does. */
export type MemoryNetwork = 'sink' | 'source' | 'echo';

/** What the control half passes on; cloneable. */
export interface NetMemoryOptions {
  readonly network: MemoryNetwork;
  /** Bytes of the source's frames. */
  readonly frame: number;
}

const RECEIVE = 0;
const TRANSMIT = 1;
const HEADER = virtio_net_hdr.size;
/** Packets between two looks at the thread's other events. */
const BUDGET = 256;
/** Packets that are returned to the driver together. */
const BATCH = 32;

class NetMemoryHandler implements QueueHandler {
  readonly #network: MemoryNetwork;
  /** Header and frame of the source. */
  readonly #packet: Uint8Array;
  #memory: GuestMemory | null = null;
  #context: HandlerContext | null = null;
  #receive: ServedQueue | null = null;
  #transmit: ServedQueue | null = null;
  #received: DescriptorChain | null = null;
  #transmitted: DescriptorChain | null = null;
  readonly #bounce = new Uint8Array(HEADER + 65536);

  constructor({ network, frame }: NetMemoryOptions) {
    this.#network = network;
    this.#packet = new Uint8Array(HEADER + frame);
    // To everybody, from a locally administered address, of an EtherType for experiments.
    this.#packet.fill(0xff, HEADER, HEADER + 6);
    this.#packet.set([0x02, 0, 0, 0, 0, 1, 0x88, 0xb5], HEADER + 6);
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#memory = context.memory;
    this.#receive = context.queues[RECEIVE] ?? null;
    this.#transmit = context.queues[TRANSMIT] ?? null;
    this.#received = new DescriptorChain(context.memory);
    this.#transmitted = new DescriptorChain(context.memory);
    // §5.1.6.4.1: 1 in any case, but only there to be read with this feature.
    const mergeable = hasFeature(context.features, VIRTIO_NET_F_MRG_RXBUF);
    this.#packet[virtio_net_hdr.num_buffers.offset] = mergeable ? 1 : 0;
  }

  kick(queue: number): void {
    if (queue === TRANSMIT) {
      if (this.#network === 'echo') this.#echo();
      else this.#serve(this.#transmit, this.#transmitted, false);
    } else if (this.#network === 'source') {
      this.#serve(this.#receive, this.#received, true);
    }
  }

  ready(): void {}

  stop(): void {
    this.#context = null;
    this.#receive = null;
    this.#transmit = null;
  }

  /** Serves one queue alone. @param supplies whether its buffers are filled with the source's packet */
  #serve(served: ServedQueue | null, chain: DescriptorChain | null, supplies: boolean): void {
    if (served === null || chain === null) return;
    const queue = served.virtqueue;
    let pending = 0;
    queue.disableKicks();
    for (let budget = BUDGET; budget > 0; budget--) {
      const popped = queue.pop(chain);
      if (popped !== POP_CHAIN) {
        publish(served);
        pending = 0;
        if (!this.#ask(queue, popped)) return;
        continue;
      }
      queue.push(chain.id, chain.slots, supplies ? this.#supply(chain) : 0);
      if (++pending === BATCH) {
        publish(served);
        pending = 0;
      }
    }
    publish(served);
    served.kickAgain();
  }

  #echo(): void {
    const { transmit, receive } = { transmit: this.#transmit, receive: this.#receive };
    const chain = this.#transmitted;
    const room = this.#received;
    if (transmit === null || chain === null || room === null) return;
    const queue = transmit.virtqueue;
    let pending = 0;
    queue.disableKicks();
    for (let budget = BUDGET; budget > 0; budget--) {
      const popped = queue.pop(chain);
      if (popped !== POP_CHAIN) {
        this.#publishBoth();
        pending = 0;
        if (!this.#ask(queue, popped)) return;
        continue;
      }
      // No buffer to receive into: the packet is lost, as on any network.
      if (receive !== null) {
        const found = receive.virtqueue.pop(room);
        if (found < 0) {
          this.#context?.broken(`receive queue: ${faultText(found)}`);
          return;
        }
        if (found === POP_CHAIN) {
          const written = this.#copy(chain, room);
          receive.virtqueue.push(room.id, room.slots, written);
        }
      }
      queue.push(chain.id, chain.slots, 0);
      if (++pending === BATCH) {
        this.#publishBoth();
        pending = 0;
      }
    }
    this.#publishBoth();
    transmit.kickAgain();
  }

  /** The queue is empty, or broken. Returns true when it is not empty any more. */
  #ask(queue: Virtqueue, popped: number): boolean {
    if (popped < 0) {
      this.#context?.broken(faultText(popped));
      return false;
    }
    if (!queue.enableKicks()) return false;
    queue.disableKicks();
    return true;
  }

  #publishBoth(): void {
    if (this.#receive !== null) publish(this.#receive);
    if (this.#transmit !== null) publish(this.#transmit);
  }

  /** The source's packet. Returns the bytes written, 0 when there is too little room. */
  #supply(chain: DescriptorChain): number {
    const { length } = this.#packet;
    if (chain.writableLength < length) return 0;
    this.#fill(chain);
    return length;
  }

  #fill(chain: DescriptorChain): void {
    const memory = this.#memory;
    const packet = this.#packet;
    if (memory === null || chain.count > 1) {
      chain.write(0, packet);
      return;
    }
    memory.copyIn(chain.offset[0] as number, packet);
  }

  /** Header and frame. Returns the bytes written, 0 when there is too little room. */
  #copy(from: DescriptorChain, to: DescriptorChain): number {
    const length = from.readableLength;
    const memory = this.#memory;
    if (memory === null || length < HEADER || length > to.writableLength) return 0;
    if (length > this.#bounce.length) return 0;
    const target = to.offset[0] as number;
    if (from.count === 1 && to.count === 1) {
      memory.copyWithin(target, from.offset[0] as number, length);
      memory.writeU16(target + virtio_net_hdr.num_buffers.offset, 1);
      return length;
    }
    const bounce = this.#bounce.subarray(0, length);
    from.read(0, bounce);
    bounce[virtio_net_hdr.num_buffers.offset] = 1;
    return to.write(0, bounce);
  }
}

function publish(served: ServedQueue): void {
  if (served.virtqueue.publish()) served.interrupt();
}

/** Makes the data half; called in the thread that serves it. */
export function createHandler(options: unknown): QueueHandler {
  return new NetMemoryHandler(options as NetMemoryOptions);
}
