/** The socket device's data half: moves packets between queues and connections (virtio 1.3 §5.10.6). */

import { hasFeature } from '../../../abi/virtio-ring.ts';
import * as abi from '../../../abi/virtio-vsock.ts';
import { type ActiveQueue, UNDO_POP } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { HEADER_SIZE, PacketHeader } from './vsock-packet.ts';
import type { VsockSwitch } from './vsock-switch.ts';

/** The most descriptors of every queue. */
export const QUEUE_SIZE = 256;
const RX = 0;
const TX = 1;
const EVENT = 2;
/** Packets of a queue that are served before others get their turn. */
const TURN = 64;

/**
 * Moves packets. When their queues move to or from another datapath, the event queue reports to the
 * guest that its connections are lost (§5.10.6.7).
 */
export class VsockHandler implements QueueHandler {
  readonly #switch: VsockSwitch;
  readonly #header = new PacketHeader();
  #context: HandlerContext | undefined;
  #streams = true;
  #broken = false;
  #woken = false;

  constructor(connections: VsockSwitch) {
    this.#switch = connections;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#broken = false;
    this.#woken = false;
    // §5.10.3.2: without any feature bit there are stream sockets.
    this.#streams =
      hasFeature(context.features, abi.VIRTIO_VSOCK_F_STREAM) ||
      !hasFeature(context.features, abi.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM);
    this.#switch.serve(context.queues[RX] !== undefined);
    this.#switch.wake = () => {
      // Many streams may be ready in one turn of the event loop.
      if (this.#woken) return;
      this.#woken = true;
      this.#queue(RX)?.kickAgain();
    };
  }

  kick(queue: number): void {
    if (queue === EVENT) this.#sendEvent();
    else if (queue === TX) this.#transmit();
    // Buffers for the guest also let its own packets continue.
    else if (queue === RX && this.#receive()) this.#transmit();
  }

  stop(): void {
    this.#switch.wake = () => {};
    this.#context = undefined;
  }

  /** Guest to host. */
  #transmit(): void {
    const queue = this.#queue(TX);
    const hear = (chain: DescriptorChain): number => this.#hear(chain);
    this.#serve(queue, TURN, hear, () => !this.#broken && !this.#switch.isFull);
    // Room for its replies lets the guest's packets continue.
    if (this.#receive()) queue?.kickAgain();
  }

  #hear(chain: DescriptorChain): number {
    const header = this.#header;
    if (chain.read(0, header.bytes) < HEADER_SIZE) {
      return this.#break('a packet is shorter than its header (§5.10.6)');
    }
    header.decode();
    if (header.len > chain.readableLength - HEADER_SIZE) {
      return this.#break('a packet is longer than its buffer (§5.10.6)');
    }
    this.#switch.hear(header, this.#streams, (into) => void chain.read(HEADER_SIZE, into));
    return 0;
  }

  /** Host to guest. @returns true when the guest's packets had to wait for it and no longer do */
  #receive(): boolean {
    this.#woken = false;
    const wasFull = this.#switch.isFull;
    const send = (chain: DescriptorChain): number => this.#send(chain);
    this.#serve(this.#queue(RX), TURN, send, () => this.#switch.hasPacket);
    return wasFull && !this.#broken && !this.#switch.isFull;
  }

  /** Writes the next packet into a chain. @returns its length */
  #send(chain: DescriptorChain): number {
    const room = chain.writableLength - HEADER_SIZE;
    if (room <= 0) {
      return this.#break('a receive buffer has no room for a header and a payload (§5.10.6.4)');
    }
    const header = this.#header;
    const payload = this.#switch.compose(header, room);
    header.encode();
    chain.write(0, header.bytes);
    chain.write(HEADER_SIZE, payload);
    return HEADER_SIZE + payload.length;
  }

  /** The only event. */
  #sendEvent(): void {
    const reset = (chain: DescriptorChain): number => {
      const event = new Uint8Array(abi.virtio_vsock_event.size);
      new DataView(event.buffer).setUint32(0, abi.VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, true);
      this.#switch.transportReset = false;
      return chain.write(0, event);
    };
    this.#serve(this.#queue(EVENT), TURN, reset, () => this.#switch.transportReset);
  }

  /** A queue that the driver enabled, unless the device is broken. */
  #queue(index: number): ActiveQueue | undefined {
    return this.#broken ? undefined : this.#context?.queues[index];
  }

  #serve(queue: ActiveQueue | undefined, ...how: Parameters<ActiveQueue['serve']>): void {
    if (queue?.serve(...how) === false) this.#drop();
  }

  #break(reason: string): typeof UNDO_POP {
    this.#drop();
    this.#context?.broken(reason);
    return UNDO_POP;
  }

  /** Closes the streams of the host's programs at once, since their guest is gone. */
  #drop(): void {
    this.#broken = true;
    this.#switch.drop();
  }
}
