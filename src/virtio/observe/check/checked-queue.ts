/**
 * Checks what driver and device do with a queue. It only observes: after a breach everything continues
 * as it would without. Time is counted in calls of `tick`.
 */
import type { GuestMemory } from '../../../memory/guest-memory.ts';

import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import {
  faultText,
  POP_CHAIN,
  type QueueConfig,
  type Virtqueue,
  type VringState,
} from '../../queue/virtqueue.ts';
import type { Breach } from '../observation.ts';
import { dumpRing } from './ring-dump.ts';
import { isUnchanged, openRingView, type RingView, type TakenChain } from './ring-view.ts';
import { type Rule, rules } from './rules.ts';

/**
 * Ticks that a side may let the other wait. A device answers in its own thread; a driver may
 * lose its processor between the ring and the notification, for seconds in an emulated guest.
 */
const DEVICE_PATIENCE = 5;
const DRIVER_PATIENCE = 20;
/** A readable part of up to this many bytes is compared: the driver writes it for the device alone. */
const COMPARED_BYTES = 64;
/** The bits of a chain's id that are the head, or the packed ring's buffer id: in-order queues add a place. */
const ID_BITS = 0xffff;

interface InFlight {
  readonly chain: TakenChain;
  readonly writableLength: number;
  /** The original readable part; undefined when it is not compared. */
  readonly readable: { readonly offset: number; readonly bytes: Uint8Array } | undefined;
}

/** The dependencies of a checked queue. */
export interface CheckedQueueOptions {
  readonly memory: GuestMemory;
  readonly config: QueueConfig;
  readonly features: bigint;
  breach(breach: Breach): void;
}

/** A queue under check. */
export class CheckedQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  readonly #inner: Virtqueue;
  readonly #options: CheckedQueueOptions;
  readonly #view: RingView;
  readonly #reported = new Set<string>();
  readonly #inFlight = new Map<number, InFlight>();
  /** Ids that were ever taken. */
  readonly #known = new Set<number>();
  /** The chain that holds each descriptor of the table. */
  readonly #owners = new Map<number, number>();
  /** Where the device waits for a notification that it enabled; -1: it does not wait. */
  #asked = -1;
  #waitedForKick = 0;
  #interruptDue = false;
  #waitedForInterrupt = 0;
  #pushed = 0;
  #waitedForPublish = 0;

  constructor(inner: Virtqueue, options: CheckedQueueOptions) {
    this.#inner = inner;
    this.#options = options;
    this.index = this.#inner.index;
    this.size = this.#inner.size;
    this.#view = openRingView(options.memory, options.config, options.features);
  }

  /** The driver notified the queue. */
  kicked(): void {
    this.#asked = -1;
  }

  /** A second passed. */
  tick(): void {
    const missed = this.#asked >= 0 && this.#view.isAvailable(this.#asked);
    this.#waitedForKick = missed ? this.#waitedForKick + 1 : 0;
    if (this.#waitedForKick > DRIVER_PATIENCE) this.#report(rules.missingKick);
    this.#waitedForInterrupt = this.#interruptDue ? this.#waitedForInterrupt + 1 : 0;
    if (this.#waitedForInterrupt > DEVICE_PATIENCE) this.#report(rules.missingInterrupt);
    this.#waitedForPublish = this.#pushed > 0 ? this.#waitedForPublish + 1 : 0;
    if (this.#waitedForPublish > DEVICE_PATIENCE) this.#report(rules.unpublished);
  }

  /** The device interrupted the driver. */
  interrupted(): void {
    this.#interruptDue = false;
  }

  pop(chain: DescriptorChain): number {
    const { nextAvail } = this.#inner.state();
    const result = this.#inner.pop(chain);
    if (result === POP_CHAIN) this.#taken(nextAvail, chain);
    else if (result < 0) this.#report(faultRule(result));
    return result;
  }

  undoPop(chain: DescriptorChain): void {
    this.#inner.undoPop(chain);
    this.#release(chain.id & ID_BITS);
  }

  push(id: number, slots: number, written: number): void {
    this.#used(id & ID_BITS, written);
    this.#pushed++;
    this.#inner.push(id, slots, written);
  }

  publish(): boolean {
    const wanted = this.#inner.publish();
    this.#pushed = 0;
    if (wanted) this.#interruptDue = true;
    const fault = this.#view.suppressionFault();
    if (fault !== undefined) this.#report(fault);
    return wanted;
  }

  enableKicks(): boolean {
    const more = this.#inner.enableKicks();
    const { nextAvail } = this.#inner.state();
    // A held queue has chains that it does not pass on: no kick is missing then.
    this.#asked = more || this.#view.isAvailable(nextAvail) ? -1 : nextAvail;
    return more;
  }

  disableKicks(): void {
    this.#asked = -1;
    this.#inner.disableKicks();
  }

  state(): VringState {
    return this.#inner.state();
  }

  #taken(nextAvail: number, chain: DescriptorChain): void {
    const id = chain.id & ID_BITS;
    // A chain that was taken is no longer waited for.
    this.#asked = -1;
    const taken = this.#view.taken(nextAvail, chain.slots);
    if (taken.fault !== undefined) this.#report(taken.fault, id);
    const twice = taken.descriptors.some((index) => this.#owners.has(index));
    if (twice || this.#inFlight.has(id)) this.#report(rules.reused, id);
    for (const index of taken.descriptors) this.#owners.set(index, id);
    this.#known.add(id);
    this.#inFlight.set(id, {
      chain: taken,
      writableLength: chain.writableLength,
      readable: this.#readablePart(chain),
    });
  }

  #readablePart(chain: DescriptorChain): InFlight['readable'] {
    const length = chain.length[0] as number;
    if (chain.readable !== 1 || length > COMPARED_BYTES) return undefined;
    const offset = chain.offset[0] as number;
    return { offset, bytes: Uint8Array.from(this.#options.memory.bytes(offset, length)) };
  }

  #used(id: number, written: number): void {
    const entry = this.#inFlight.get(id);
    if (entry === undefined) {
      this.#report(this.#known.has(id) ? rules.usedTwice : rules.notTaken, id);
      return;
    }
    const { memory } = this.#options;
    if (written > entry.writableLength) this.#report(rules.writtenTooMuch, id);
    if (!isUnchanged(memory, entry.chain)) this.#report(rules.changed, id);
    const { readable } = entry;
    if (readable !== undefined) {
      const now = memory.bytes(readable.offset, readable.bytes.length);
      if (readable.bytes.some((byte, i) => byte !== now[i]))
        this.#report(rules.readableChanged, id);
    }
    this.#release(id);
  }

  #release(id: number): void {
    const entry = this.#inFlight.get(id);
    this.#inFlight.delete(id);
    for (const index of entry?.chain.descriptors ?? []) {
      if (this.#owners.get(index) === id) this.#owners.delete(index);
    }
  }

  #report({ side, rule, text }: Rule, head?: number): void {
    if (this.#reported.has(rule)) return;
    this.#reported.add(rule);
    const { memory, config, features, breach } = this.#options;
    const dump = dumpRing(memory, config, features, this.#inner.state(), head);
    breach({ side, rule, text, queue: this.index, dump });
  }
}

/** A fault that `pop` found. */
function faultRule(fault: number): Rule {
  const text = faultText(fault).replace('(§', '(virtio 1.3 §');
  return { side: 'driver', rule: `fault${fault}`, text };
}
