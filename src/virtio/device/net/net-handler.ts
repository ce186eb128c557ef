/** The data half of a network device: queue pairs on the queues of a tap, and the control queue. */
import {
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  virtio_net_hdr,
} from '../../../abi/virtio-net.ts';
import { hasFeature } from '../../../abi/virtio-ring.ts';
import { ReceiveErrors, TapQueue } from '../../../backend/tap-queue.ts';
import { type HandlerContext, type QueueHandler, READABLE, WRITABLE } from '../../device.ts';
import { ControlQueue, type NetControls } from './net-control.ts';
import { ReceiveFilter } from './net-filter.ts';
import { GUEST_OFFLOADS, receivesLargePackets, tunOffloads } from './net-offloads.ts';
import { ReceiveQueue } from './net-receive.ts';
import { TransmitQueue } from './net-transmit.ts';

/** Ethernet header with a VLAN tag. */
const ETHERNET_HEADER = 18;
const LARGEST_IP_PACKET = 65535;

/** Options from the control half; cloneable. */
export interface NetHandlerOptions {
  /** A descriptor for each queue pair of the tap. */
  readonly fds: readonly number[];
  /** The device's address as a number, see `macNumber`. */
  readonly mac: number;
  /** Bytes. */
  readonly mtu: number;
}

/** A message to the control half. */
export interface MacChanged {
  readonly mac: Uint8Array;
}

/** The control queue's settings, from one reset of the device to the next. */
class NetState {
  readonly filter: ReceiveFilter;
  pairs = 1;
  /** The VIRTIO_NET_F_GUEST_* that are on. */
  offloads: bigint;

  constructor(options: NetHandlerOptions, features: bigint) {
    this.filter = new ReceiveFilter(options.mac, hasFeature(features, VIRTIO_NET_F_CTRL_VLAN));
    this.offloads = features & GUEST_OFFLOADS;
  }
}

/** A receive queue, a transmit queue, and the tap events that they wait for. */
class QueuePair {
  readonly tap: TapQueue;
  receive: ReceiveQueue | null = null;
  transmit: TransmitQueue | null = null;
  attached = true;
  readonly #token: number;
  readonly #timerToken: number;
  #watched = 0;
  /** The timer of a rest that is waited for, or -1. */
  #timerFd = -1;

  constructor(tap: TapQueue, token: number, timerToken: number) {
    this.tap = tap;
    this.#token = token;
    this.#timerToken = timerToken;
  }

  /** Waits for something that lets the queues continue. */
  watch(context: HandlerContext): void {
    const { receive, transmit } = this;
    let events = 0;
    if (this.attached) {
      if (receive !== null && canReceive(receive)) events |= READABLE;
      if (transmit?.blocked === true) events |= WRITABLE;
    }
    const timerFd = receive?.errors.resting === true ? receive.errors.timerFd : -1;
    if (timerFd !== this.#timerFd) {
      if (this.#timerFd >= 0) context.reactor.watch(this.#timerFd, 0, this.#timerToken);
      if (timerFd >= 0) context.reactor.watch(timerFd, READABLE, this.#timerToken);
      this.#timerFd = timerFd;
    }
    if (events === this.#watched) return;
    this.#watched = events;
    context.reactor.watch(this.tap.fd, events, this.#token);
  }
}

function canReceive({ starved, errors }: ReceiveQueue): boolean {
  return !starved && !errors.gone && !errors.resting;
}

class NetHandler implements QueueHandler, NetControls {
  readonly #options: NetHandlerOptions;
  readonly #pairs: readonly QueuePair[];
  #control: ControlQueue | null = null;
  /** Index of the control queue, -1 for none. */
  #controlIndex = -1;
  #context: HandlerContext | null = null;
  #state: NetState | null = null;

  constructor(options: NetHandlerOptions, open: OpenTapQueue) {
    this.#options = options;
    const { fds } = options;
    this.#pairs = fds.map((fd, index) => new QueuePair(open(fd), index, fds.length + index));
  }

  start(context: HandlerContext): void {
    const { features, queues } = context;
    this.#state ??= new NetState(this.#options, features);
    const state = this.#state;
    this.#context = context;
    const largest = receivesLargePackets(features) ? LARGEST_IP_PACKET : this.#options.mtu;
    for (const [index, pair] of this.#pairs.entries()) {
      const receive = queues[2 * index];
      const transmit = queues[2 * index + 1];
      // Without VIRTIO_NET_F_MQ the third queue is the control queue (§5.1.2).
      if (receive === undefined || transmit === undefined) continue;
      if (index > 0 && !hasFeature(features, VIRTIO_NET_F_MQ)) continue;
      pair.receive = new ReceiveQueue(
        receive,
        pair.tap,
        state.filter,
        new ReceiveErrors((text) => context.log(text)),
        context,
        hasFeature(features, VIRTIO_NET_F_MRG_RXBUF),
        virtio_net_hdr.size + ETHERNET_HEADER + largest,
      );
      pair.transmit = new TransmitQueue(transmit, pair.tap, context);
    }
    if (this.#controlled(context)) {
      this.setPairs(state.pairs);
    } else {
      const pairs = this.#servedPairs();
      // An earlier handler may have detached some of them.
      for (const pair of this.#pairs.slice(0, pairs)) pair.tap.setAttached(true);
      this.setPairs(pairs);
    }
    this.#pairs[0]?.tap.setOffloads(tunOffloads(state.offloads));
    this.#startControl(context, state.filter);
  }

  kick(queue: number): void {
    const context = this.#context;
    if (queue === this.#controlIndex) {
      this.#control?.run();
      return;
    }
    const pair = this.#pairs[queue >>> 1];
    if (pair === undefined || context === null) return;
    if ((queue & 1) === 0) {
      if (pair.receive?.kicked() === true) this.#receive(pair);
    } else if (pair.transmit !== null && !pair.transmit.blocked) {
      pair.transmit.run();
    }
    pair.watch(context);
  }

  ready(token: number, events: number): void {
    const context = this.#context;
    const resting = token >= this.#pairs.length;
    const pair = this.#pairs[resting ? token - this.#pairs.length : token];
    if (pair === undefined || context === null) return;
    if (resting) {
      pair.receive?.errors.rested();
      pair.watch(context);
      return;
    }
    if ((events & READABLE) !== 0) this.#receive(pair);
    if ((events & WRITABLE) !== 0 && pair.transmit !== null) {
      pair.transmit.blocked = false;
      pair.transmit.run();
    }
    pair.watch(context);
  }

  stop(): void {
    const context = this.#context;
    if (context === null) return;
    for (const pair of this.#pairs) {
      const { receive } = pair;
      pair.receive = null;
      pair.transmit = null;
      pair.watch(context);
      receive?.stop();
    }
    this.#control = null;
    this.#controlIndex = -1;
    this.#context = null;
  }

  reset(): void {
    this.#state = null;
  }

  setPairs(pairs: number): boolean {
    if (pairs < 1 || pairs > this.#pairs.length || this.#context === null) return false;
    for (const [index, pair] of this.#pairs.entries()) {
      const attached = index < pairs;
      if (attached === pair.attached) continue;
      pair.attached = attached;
      // The descriptor must not be watched while detached: it would report an error all the time.
      if (!attached) pair.watch(this.#context);
      pair.tap.setAttached(attached);
      if (attached) pair.watch(this.#context);
    }
    if (this.#state !== null) this.#state.pairs = pairs;
    return true;
  }

  setGuestOffloads(features: bigint): boolean {
    const negotiated = (this.#context?.features ?? 0n) & GUEST_OFFLOADS;
    if ((features & ~negotiated) !== 0n) return false;
    if ((this.#pairs[0]?.tap.setOffloads(tunOffloads(features)) ?? -1) < 0) return false;
    if (this.#state !== null) this.#state.offloads = features;
    return true;
  }

  setMac(mac: Uint8Array): boolean {
    this.#context?.post({ mac } satisfies MacChanged);
    return true;
  }

  /** False with several pairs whose control queue belongs to a frontend. */
  #controlled({ features, queues }: HandlerContext): boolean {
    const mq = hasFeature(features, VIRTIO_NET_F_MQ);
    return !mq || queues[2 * this.#pairs.length] !== undefined;
  }

  /** Pairs whose queues are served, from the first on: the owner of the control queue enables them. */
  #servedPairs(): number {
    const missing = this.#pairs.findIndex(({ transmit }) => transmit === null);
    return Math.max(1, missing < 0 ? this.#pairs.length : missing);
  }

  #startControl(context: HandlerContext, filter: ReceiveFilter): void {
    if (!hasFeature(context.features, VIRTIO_NET_F_CTRL_VQ)) return;
    const pairs = hasFeature(context.features, VIRTIO_NET_F_MQ) ? this.#pairs.length : 1;
    const served = context.queues[2 * pairs];
    if (served === undefined) return;
    this.#controlIndex = 2 * pairs;
    this.#control = new ControlQueue(served, context, filter, this);
  }

  #receive(pair: QueuePair): void {
    const { receive } = pair;
    if (receive !== null && pair.attached && canReceive(receive)) receive.run();
  }
}

/** Opens a tap's queue by its descriptor; tests substitute their own. */
type OpenTapQueue = (fd: number) => TapQueue;

/** Makes the data half; called in the thread that serves it. */
export function createHandler(
  options: unknown,
  open: OpenTapQueue = (fd) => new TapQueue(fd),
): QueueHandler {
  return new NetHandler(options as NetHandlerOptions, open);
}
