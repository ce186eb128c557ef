/** File descriptors on the main thread's event loop. */

import { Closeable } from './cleanup-stack.ts';
import { koffi } from './koffi.ts';

interface PollEvents {
  readonly readable: boolean;
  readonly writable: boolean;
  readonly disconnect: boolean;
}

interface PollHandle {
  start(options: object, callback: (status: number, events: PollEvents) => void): void;
  stop(): void;
  close(): void;
  ref(): void;
  unref(): void;
}

interface PollFactory {
  poll(
    fd: number,
    options: object,
    callback: (status: number, events: PollEvents) => void,
  ): PollHandle;
}

/** The descriptor can be read: EPOLLIN. */
export const LOOP_READABLE = 1;
/** The descriptor can be written: EPOLLOUT. */
export const LOOP_WRITABLE = 4;

/**
 * Watches one descriptor, level triggered, until closed. It does not keep the process alive: what
 * a machine runs on is its threads. A descriptor can have one watch at a time, and must be closed
 * after it.
 */
export class LoopWatch extends Closeable {
  readonly #handle: PollHandle;
  readonly #callback: (events: number) => void;
  #wanted: number;
  #ready = 0;

  /**
   * @param fd becomes non-blocking
   * @param events LOOP_READABLE and LOOP_WRITABLE, added up; 0 for neither
   * @param callback gets those that are ready (both on an error or a hang-up: the system call
   *   on the descriptor then reports which); may throw, as any callback of the event loop
   */
  constructor(fd: number, events: number, callback: (events: number) => void) {
    super();
    this.#callback = callback;
    this.#wanted = events;
    const loop = koffi.node as unknown as PollFactory;
    this.#handle = loop.poll(fd, options(events), (status, ready) => this.#event(status, ready));
    this.#handle.unref();
    if (events === 0) this.#handle.stop();
  }

  /** Changes what is waited for. */
  set(events: number): void {
    if (events === this.#wanted) return;
    this.#wanted = events;
    this.#ready &= events;
    if (events === 0) this.#handle.stop();
    else this.#handle.start(options(events), (status, ready) => this.#event(status, ready));
  }

  /** Whether the process keeps running while this waits for something. */
  hold(alive: boolean): void {
    if (alive) this.#handle.ref();
    else this.#handle.unref();
  }

  close(): void {
    this.#wanted = 0;
    this.#handle.close();
  }

  /**
   * koffi calls back bare: an exception would be lost, and promises resolved in it would wait for
   * some other event. An immediate runs in the same turn of the loop and has neither problem.
   */
  #event(status: number, ready: PollEvents): void {
    if (this.#ready === 0) setImmediate(() => this.#deliver());
    if (status < 0 || ready.disconnect) this.#ready |= LOOP_READABLE | LOOP_WRITABLE;
    if (ready.readable) this.#ready |= LOOP_READABLE;
    if (ready.writable) this.#ready |= LOOP_WRITABLE;
  }

  #deliver(): void {
    const events = this.#ready & this.#wanted;
    this.#ready = 0;
    if (events !== 0) this.#callback(events);
  }
}

function options(events: number): object {
  return {
    readable: (events & LOOP_READABLE) !== 0,
    writable: (events & LOOP_WRITABLE) !== 0,
  };
}
