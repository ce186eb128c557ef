/** The console's data half: moves bytes between queues and ports (virtio 1.3 §5.3.6). */
import { VIRTIO_CONSOLE_F_MULTIPORT } from '../../../abi/virtio-console.ts';
import type { ActiveQueue, HandlerContext, QueueHandler } from '../../device.ts';
import { hasFeature } from '../../features.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../../queue/virtqueue.ts';
import { CONTROL_SIZE, type ControlSession } from './console-control.ts';
import { ConsolePort, type PortDriver } from './console-port.ts';

/** The most descriptors of every queue. */
export const QUEUE_SIZE = 128;
/** Control receive and transmit queue (§5.3.2). */
const CONTROL_RX = 2;
const CONTROL_TX = 3;
/** Chains, or pieces of one, that a queue is served at a time: then others get their turn. */
const TURN = 64;
/**
 * The most bytes of a chain that are delivered when serving stops, although nobody reads them.
 * Limit: what a longer chain has beyond them is lost then; Linux sends at most 32 KiB.
 */
const LAST_WORDS = 1024 * 1024;

/** Receive queue of a port; its transmit queue is the next one. */
function receiveQueue(port: number): number {
  return port === 0 ? 0 : 2 + 2 * port;
}

/** The port that a queue belongs to. */
function portOf(queue: number): number {
  return queue < 2 ? 0 : (queue >> 1) - 1;
}

/** A transmit chain whose bytes are being delivered. */
interface Outgoing {
  readonly chain: DescriptorChain;
  /** Bytes delivered so far; -1 when no chain is held. */
  position: number;
  /** Set while the port is being served: its streams may call back meanwhile. */
  busy: boolean;
}

/** Serves the queues from `start` to `stop`. */
export class ConsoleHandler implements QueueHandler, PortDriver {
  readonly #ports: readonly ConsolePort[];
  readonly #session: ControlSession;
  /** By port. */
  readonly #outgoing: Outgoing[] = [];
  #context: HandlerContext | undefined;
  /** For chains that are used as soon as they are popped. */
  #chain: DescriptorChain | undefined;
  #broken = false;

  constructor(ports: readonly ConsolePort[], session: ControlSession) {
    this.#ports = ports;
    this.#session = session;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#chain = new DescriptorChain(context.memory, QUEUE_SIZE);
    for (const port of this.#ports) {
      const chain = new DescriptorChain(context.memory, QUEUE_SIZE);
      this.#outgoing[port.index] = { chain, position: -1, busy: false };
      port.driver = this;
    }
  }

  kick(queue: number): void {
    if (queue === CONTROL_RX) this.#sendControl();
    else if (queue === CONTROL_TX) this.#receiveControl();
    else this.wake(portOf(queue));
  }

  ready(): void {}

  wake(index: number): void {
    const port = this.#ports[index];
    const outgoing = this.#outgoing[index];
    if (port === undefined || outgoing === undefined) return;
    if (outgoing.busy) {
      // Called by a stream in the middle of `#transmit` or `#receive`, whose chain must stay.
      const queue = this.#queue(receiveQueue(index)) ?? this.#queue(receiveQueue(index) + 1);
      queue?.kickAgain();
      return;
    }
    outgoing.busy = true;
    this.#transmit(port, outgoing);
    this.#receive(port);
    outgoing.busy = false;
  }

  stop(): void {
    for (const port of this.#ports) {
      port.driver = undefined;
      const outgoing = this.#outgoing[port.index];
      const queue = this.#context?.queues[receiveQueue(port.index) + 1];
      if (outgoing === undefined || queue === undefined || outgoing.position === -1) continue;
      const { chain } = outgoing;
      const end = Math.min(chain.readableLength, outgoing.position + LAST_WORDS);
      while (outgoing.position < end) this.#deliver(port, outgoing, end);
      outgoing.position = -1;
      queue.virtqueue.push(chain.id, chain.slots, 0);
      if (queue.virtqueue.publish()) queue.interrupt();
    }
    this.#context = undefined;
  }

  /** The terminal has another size. */
  resized(): void {
    const { features } = this.#context ?? { features: 0n };
    if (!hasFeature(features, VIRTIO_CONSOLE_F_MULTIPORT)) return;
    this.#session.resized();
    this.#sendControl();
  }

  /** Guest to host. */
  #transmit(port: ConsolePort, outgoing: Outgoing): void {
    const queue = this.#queue(receiveQueue(port.index) + 1);
    if (queue === undefined) return;
    const { chain } = outgoing;
    let used = false;
    let turns = 0;
    while (!port.outputFull) {
      if (turns++ === TURN) {
        queue.kickAgain();
        break;
      }
      if (outgoing.position === -1) {
        if (!this.#pop(queue, chain)) break;
        outgoing.position = 0;
      }
      this.#deliver(port, outgoing, chain.readableLength);
      if (outgoing.position < chain.readableLength) continue;
      outgoing.position = -1;
      queue.virtqueue.push(chain.id, chain.slots, 0);
      used = true;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
  }

  /** Delivers a piece of the held chain, as far as `end`. */
  #deliver(port: ConsolePort, outgoing: Outgoing, end: number): void {
    const length = Math.min(end - outgoing.position, ConsolePort.pieceSize);
    if (length === 0) return;
    const piece = Buffer.alloc(length);
    outgoing.chain.read(outgoing.position, piece);
    outgoing.position += length;
    port.deliver(piece);
  }

  /** Host to guest. */
  #receive(port: ConsolePort): void {
    const queue = this.#queue(receiveQueue(port.index));
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    if (port.index > 0 && !port.guestOpen) return;
    let used = false;
    let turns = 0;
    while (port.waiting > 0) {
      if (turns++ === TURN) {
        queue.kickAgain();
        break;
      }
      if (!this.#pop(queue, chain)) break;
      const written = chain.write(0, port.peek(chain.writableLength));
      queue.virtqueue.push(chain.id, chain.slots, written);
      used = true;
      port.consume(written);
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
  }

  #receiveControl(): void {
    const queue = this.#queue(CONTROL_TX);
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    const message = new Uint8Array(CONTROL_SIZE);
    let used = false;
    for (let turns = 0; this.#pop(queue, chain); turns++) {
      const length = chain.read(0, message);
      queue.virtqueue.push(chain.id, chain.slots, 0);
      used = true;
      if (length === CONTROL_SIZE) this.#controlled(message);
      if (turns < TURN) continue;
      queue.kickAgain();
      break;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
    this.#sendControl();
  }

  #controlled(message: Uint8Array): void {
    const port = this.#session.hear(message);
    if (port === undefined) return;
    if (port.guestOpen) this.wake(port.index);
    else if (port.index > 0) port.dropInput();
  }

  #sendControl(): void {
    const queue = this.#queue(CONTROL_RX);
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    let used = false;
    // Bounded by the messages that wait.
    while (this.#session.hasMessage && this.#pop(queue, chain)) {
      const written = chain.write(0, this.#session.take());
      queue.virtqueue.push(chain.id, chain.slots, written);
      used = true;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
  }

  /** A queue that the driver enabled, as long as the device is well. */
  #queue(index: number): ActiveQueue | undefined {
    return this.#broken ? undefined : this.#context?.queues[index];
  }

  #pop({ virtqueue }: ActiveQueue, chain: DescriptorChain): boolean {
    for (;;) {
      const found = virtqueue.pop(chain);
      if (found === POP_CHAIN) return true;
      if (found < 0) {
        this.#broken = true;
        this.#context?.broken(`queue ${virtqueue.index}: ${faultText(found)}`);
        return false;
      }
      if (!virtqueue.enableKicks()) return false;
    }
  }
}
