/**
 * How vCPU threads are steered: they block in KVM_RUN and never return to an event loop, so that
 * shared words, with a signal to come and look, are all that reaches them.
 */
import type { SharedState } from './shared-state.ts';

/** What all vCPUs are to do. */
export const REQUEST_RUN = 0;
export const REQUEST_PAUSE = 1;
export const REQUEST_STOP = 2;
/** The guest is being loaded: do not touch the vCPU yet. */
export const REQUEST_HOLD = 3;

/** Exit reasons that are counted; higher ones share the last counter. */
export const EXIT_COUNTERS = 64;

const REQUEST = 0;
/** The request is in the low bits of its word; the bits above count changes. */
const REQUEST_MASK = 3;
const THREAD_ID = 0;
const PARKED = 1;
const VCPU_WORDS = 2;

/** The control words, as each thread has them. */
export class VcpuControl {
  readonly #machine: Int32Array;
  readonly #vcpus: readonly Int32Array[];
  readonly #counters: readonly Int32Array[];

  constructor(state: SharedState, cpus: number) {
    this.#machine = state.words(1);
    this.#vcpus = Array.from({ length: cpus }, () => state.words(VCPU_WORDS));
    this.#counters = Array.from({ length: cpus }, () => state.words(EXIT_COUNTERS));
  }

  /** One of REQUEST_*. */
  get request(): number {
    return this.ticket & REQUEST_MASK;
  }

  /** Changes the request, and wakes waiting vCPUs. By one thread only. */
  set request(value: number) {
    const count = (this.ticket & ~REQUEST_MASK) + REQUEST_MASK + 1;
    Atomics.store(this.#machine, REQUEST, count | value);
    Atomics.notify(this.#machine, REQUEST);
  }

  /**
   * A number that no other request has, not even the same one made again: a vCPU may sleep through
   * a short run between two pauses.
   */
  get ticket(): number {
    return Atomics.load(this.#machine, REQUEST);
  }

  /** The REQUEST_* of a ticket. */
  static requestOf(ticket: number): number {
    return ticket & REQUEST_MASK;
  }

  /** Blocks until the ticket is another one. */
  waitWhile(ticket: number): void {
    Atomics.wait(this.#machine, REQUEST, ticket);
  }

  /** Kernel thread ID of a vCPU's thread; 0 before it runs and after it ended. */
  threadId(vcpu: number): number {
    const words = this.#vcpus[vcpu];
    return words === undefined ? 0 : Atomics.load(words, THREAD_ID);
  }

  setThreadId(vcpu: number, threadId: number): void {
    const words = this.#vcpus[vcpu];
    if (words !== undefined) Atomics.store(words, THREAD_ID, threadId);
  }

  /** Whether a vCPU's thread is to end, and the others continue. */
  isParked(vcpu: number): boolean {
    const words = this.#vcpus[vcpu];
    return words !== undefined && Atomics.load(words, PARKED) === 1;
  }

  park(vcpu: number, parked: boolean): void {
    const words = this.#vcpus[vcpu];
    if (words !== undefined) Atomics.store(words, PARKED, parked ? 1 : 0);
  }

  /** Exits of a vCPU by reason, counted by its own thread with plain stores. */
  exitCounters(vcpu: number): Int32Array {
    return this.#counters[vcpu] ?? new Int32Array(EXIT_COUNTERS);
  }
}
