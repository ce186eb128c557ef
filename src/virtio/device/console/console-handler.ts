/** The console's data half: moves bytes between queues and ports (virtio 1.3 §5.3.6). */
import { VIRTIO_CONSOLE_F_MULTIPORT } from '../../../abi/virtio-console.ts';
import { hasFeature } from '../../../abi/virtio-ring.ts';
import { type ActiveQueue, KEEP_CHAIN } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
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
 * The most bytes of a chain that are delivered when serving stops, even unread.
 * Limit: the rest of a longer chain is lost then; Linux sends at most 32 KiB.
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

/** A port's transmit queue, from a start to its stop. */
interface Outgoing {
  /** Kept while its bytes are being delivered. */
  chain: DescriptorChain | undefined;
  /** Bytes of it that were delivered. */
  position: number;
  /** Set while the port is being served: its streams may call back meanwhile. */
  busy: boolean;
}

/** Serves the queues of all ports. */
export class ConsoleHandler implements QueueHandler, PortDriver {
  readonly #ports: readonly ConsolePort[];
  readonly #session: ControlSession;
  /** By port. */
  readonly #outgoing: Outgoing[] = [];
  #context: HandlerContext | undefined;
  #broken = false;

  constructor(ports: readonly ConsolePort[], session: ControlSession) {
    this.#ports = ports;
    this.#session = session;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#broken = false;
    for (const port of this.#ports) {
      this.#outgoing[port.index] = { chain: undefined, position: 0, busy: false };
      port.driver = this;
    }
  }

  kick(queue: number): void {
    if (queue === CONTROL_RX) this.#sendControl();
    else if (queue === CONTROL_TX) this.#receiveControl();
    else this.wake(portOf(queue));
  }

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
      const chain = outgoing?.chain;
      if (outgoing === undefined || queue === undefined || chain === undefined) continue;
      const end = Math.min(chain.readableLength, outgoing.position + LAST_WORDS);
      while (outgoing.position < end) deliver(port, outgoing, chain, end);
      queue.complete(chain, 0);
      queue.publish();
    }
    this.#context = undefined;
  }

  /** The terminal was resized. */
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
    let pieces = 0;
    const isServed = (): boolean => !port.outputFull && pieces < TURN;
    /** Delivers the rest of a chain, as far as the limit. */
    const transmit = (chain: DescriptorChain): number => {
      while (outgoing.position < chain.readableLength) {
        if (!isServed()) {
          outgoing.chain = chain;
          return KEEP_CHAIN;
        }
        deliver(port, outgoing, chain, chain.readableLength);
        pieces++;
      }
      outgoing.chain = undefined;
      outgoing.position = 0;
      return 0;
    };
    const { chain } = outgoing;
    if (chain !== undefined && transmit(chain) === 0) queue.complete(chain, 0);
    this.#serve(queue, TURN, transmit, isServed);
    if (pieces === TURN) queue.kickAgain();
  }

  /** Host to guest. */
  #receive(port: ConsolePort): void {
    const queue = this.#queue(receiveQueue(port.index));
    if (port.index > 0 && !port.guestOpen) return;
    const receive = (chain: DescriptorChain): number => {
      const written = chain.write(0, port.peek(chain.writableLength));
      port.consume(written);
      return written;
    };
    this.#serve(queue, TURN, receive, () => port.waiting > 0);
  }

  #receiveControl(): void {
    const message = new Uint8Array(CONTROL_SIZE);
    this.#serve(this.#queue(CONTROL_TX), TURN, (chain) => {
      if (chain.read(0, message) === CONTROL_SIZE) this.#controlled(message);
      return 0;
    });
    this.#sendControl();
  }

  #controlled(message: Uint8Array): void {
    const port = this.#session.hear(message);
    if (port === undefined) return;
    if (port.guestOpen) this.wake(port.index);
    else if (port.index > 0) port.dropInput();
  }

  #sendControl(): void {
    const send = (chain: DescriptorChain): number => chain.write(0, this.#session.take());
    this.#serve(this.#queue(CONTROL_RX), TURN, send, () => this.#session.hasMessage);
  }

  /** A queue that the driver enabled, unless the device is broken. */
  #queue(index: number): ActiveQueue | undefined {
    return this.#broken ? undefined : this.#context?.queues[index];
  }

  #serve(queue: ActiveQueue | undefined, ...how: Parameters<ActiveQueue['serve']>): void {
    if (queue?.serve(...how) === false) this.#broken = true;
  }
}

/** Delivers a piece of a chain, as far as `end`. */
function deliver(port: ConsolePort, outgoing: Outgoing, chain: DescriptorChain, end: number): void {
  const length = Math.min(end - outgoing.position, ConsolePort.pieceSize);
  const piece = Buffer.alloc(length);
  chain.read(outgoing.position, piece);
  outgoing.position += length;
  port.deliver(piece);
}
