/**
 * How long a thread that serves queues keeps looking at them before it sleeps. `adaptive` follows KVM's halt
 * polling (Documentation/virt/kvm/halt-polling.rst), with its factors and limits: a driver that came back soon after
 * the thread had fallen asleep makes the window longer, one that stayed away long makes it shorter.
 */
import type { PollMode } from '../virtio/device-type.ts';

/** The first window, in milliseconds as all times here (halt_poll_ns_grow_start); */
export const SHORTEST_WINDOW = 0.01;
/** the longest, and the longest absence that polling can bridge (halt_poll_ns); */
export const LONGEST_WINDOW = 0.2;
/** the factor by which it grows and shrinks (halt_poll_ns_grow, halt_poll_ns_shrink). */
const FACTOR = 2;

/** HOT, except `open` and `close`: no allocation. Times are those of `performance.now()`. */
export class PollWindow {
  /** The thread looks at its queues, and kicks are suppressed. */
  polls = false;
  /** Times are needed. */
  adapts = false;
  #length = 0;
  /** The end of the last piece of work, and of the window after it. */
  #worked = 0;
  #until = 0;

  /** The queues are served from now on. */
  open(mode: PollMode): void {
    this.polls = mode === 'always';
    this.adapts = mode === 'adaptive';
  }

  /** They no longer are. */
  close(): void {
    this.polls = false;
    this.adapts = false;
  }

  /** Work came while the thread was asleep. */
  woke(now: number): void {
    const away = now - this.#worked;
    if (away <= LONGEST_WINDOW) {
      const longer = Math.max(this.#length * FACTOR, SHORTEST_WINDOW);
      this.#length = Math.min(longer, LONGEST_WINDOW);
    } else {
      const shorter = this.#length / FACTOR;
      this.#length = shorter < SHORTEST_WINDOW ? 0 : shorter;
    }
  }

  /** A piece of work ended. @returns true when polling begins: kicks must be suppressed */
  worked(now: number): boolean {
    if (!this.adapts) return false;
    this.#worked = now;
    this.#until = now + this.#length;
    if (this.polls || this.#length === 0) return false;
    this.polls = true;
    return true;
  }

  /** A look found nothing. @returns true when polling ends: kicks must be asked for again */
  idle(now: number): boolean {
    if (!this.adapts || now <= this.#until) return false;
    this.polls = false;
    return true;
  }
}
