/** The socket device's data half: moves packets between queues and connections (virtio 1.3 §5.10.6). */
import * as abi from '../../../abi/virtio-vsock.ts';
import type { ActiveQueue, HandlerContext, QueueHandler } from '../../device.ts';
import { hasFeature } from '../../features.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../../queue/virtqueue.ts';
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
 * Serves the queues from `start` to `stop`. When the packets' queues come from elsewhere or go there,
 * the event queue tells the guest that its connections are lost (§5.10.6.7).
 */
export class VsockHandler implements QueueHandler {
  readonly #switch: VsockSwitch;
  readonly #header = new PacketHeader();
  #context: HandlerContext | undefined;
  #chain: DescriptorChain | undefined;
  #streams = true;
  #broken = false;
  #woken = false;

  constructor(connections: VsockSwitch) {
    this.#switch = connections;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#chain = new DescriptorChain(context.memory, QUEUE_SIZE);
    // §5.10.3.2: without any feature bit there are stream sockets.
    this.#streams =
      hasFeature(context.features, abi.VIRTIO_VSOCK_F_STREAM) ||
      !hasFeature(context.features, abi.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM);
    this.#switch.serve(context.queues[RX] !== undefined);
    this.#switch.wake = () => {
      // Many streams may have something in one turn of the event loop.
      if (this.#woken) return;
      this.#woken = true;
      this.#queue(RX)?.kickAgain();
    };
  }

  kick(queue: number): void {
    if (queue === EVENT) this.#tell();
    else if (queue === TX) this.#transmit();
    // Buffers for the guest also let its own packets go on.
    else if (queue === RX && this.#receive()) this.#transmit();
  }

  ready(): void {}

  stop(): void {
    this.#switch.wake = () => {};
    this.#context = undefined;
  }

  /** Guest to host. */
  #transmit(): void {
    const queue = this.#queue(TX);
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    let used = false;
    for (let turns = 0; !this.#switch.isFull && this.#pop(queue, chain); turns++) {
      const { id, slots } = chain;
      if (!this.#hear(chain)) return;
      queue.virtqueue.push(id, slots, 0);
      used = true;
      if (turns < TURN) continue;
      queue.kickAgain();
      break;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
    // Room for its answers lets the guest's packets go on.
    if (this.#receive()) queue.kickAgain();
  }

  /** @returns false when the driver broke a rule */
  #hear(chain: DescriptorChain): boolean {
    const header = this.#header;
    if (chain.read(0, header.bytes) < HEADER_SIZE) {
      return this.#break('a packet is shorter than its header (§5.10.6)');
    }
    header.decode();
    if (header.len > chain.readableLength - HEADER_SIZE) {
      return this.#break('a packet is longer than its buffer (§5.10.6)');
    }
    this.#switch.hear(header, this.#streams, (into) => void chain.read(HEADER_SIZE, into));
    return true;
  }

  /** Host to guest. @returns true when the guest's packets had to wait for it and need not now */
  #receive(): boolean {
    this.#woken = false;
    const queue = this.#queue(RX);
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return false;
    const wasFull = this.#switch.isFull;
    let used = false;
    for (let turns = 0; this.#switch.hasPacket && this.#pop(queue, chain); turns++) {
      const room = chain.writableLength - HEADER_SIZE;
      if (room <= 0) {
        this.#break('a receive buffer has no room for a header and a payload (§5.10.6.4)');
        return false;
      }
      queue.virtqueue.push(chain.id, chain.slots, this.#send(chain, room));
      used = true;
      if (turns < TURN) continue;
      queue.kickAgain();
      break;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
    return wasFull && !this.#switch.isFull;
  }

  /** Writes the next packet into a chain. @returns its length */
  #send(chain: DescriptorChain, room: number): number {
    const header = this.#header;
    const payload = this.#switch.compose(header, room);
    header.encode();
    chain.write(0, header.bytes);
    chain.write(HEADER_SIZE, payload);
    return HEADER_SIZE + payload.length;
  }

  /** The one event that there is. */
  #tell(): void {
    const queue = this.#queue(EVENT);
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    if (!this.#switch.transportReset || !this.#pop(queue, chain)) return;
    const event = new Uint8Array(abi.virtio_vsock_event.size);
    new DataView(event.buffer).setUint32(0, abi.VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, true);
    this.#switch.transportReset = false;
    queue.virtqueue.push(chain.id, chain.slots, chain.write(0, event));
    if (queue.virtqueue.publish()) queue.interrupt();
  }

  /** A queue that the driver enabled, as long as the device is well. */
  #queue(index: number): ActiveQueue | undefined {
    return this.#broken ? undefined : this.#context?.queues[index];
  }

  #pop({ virtqueue }: ActiveQueue, chain: DescriptorChain): boolean {
    for (;;) {
      const found = virtqueue.pop(chain);
      if (found === POP_CHAIN) return true;
      if (found < 0) return this.#break(`queue ${virtqueue.index}: ${faultText(found)}`);
      if (!virtqueue.enableKicks()) return false;
    }
  }

  /** The host's programs hear at once that their guest is gone. */
  #break(reason: string): false {
    this.#broken = true;
    this.#switch.drop();
    this.#context?.broken(reason);
    return false;
  }
}
