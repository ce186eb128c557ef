/**
 * What becomes of errors that a tap gives when it is read, for the thread that serves it. Only those
 * that say so mean that it is gone: after any other a packet may come at any time. Since a tap that
 * fails may stay readable, one that does nothing else is left alone for a while.
 */
import { EBADF, EBADFD, ENODEV, ENXIO } from '../abi/errno.ts';
import { Timerfd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';

/** Linux's tun returns EBADFD for a queue whose interface was removed. */
const GONE: readonly number[] = [EBADF, EBADFD, ENODEV, ENXIO];
/** Failures without a packet between them before the tap is left alone. */
const PATIENCE = 8;
const REST_NS = 100e6;

/** From one activation to its end. */
export class ReceiveErrors {
  /** Nothing will ever come from the tap again. */
  gone = false;
  /** The tap is not to be read before `timerFd` is readable, and `rested` was called. */
  resting = false;
  readonly #log: (text: string) => void;
  #inARow = 0;
  #told = false;
  #timer: Timerfd | undefined;

  /** @param log gets one line for the first failure, and one when the tap is gone */
  constructor(log: (text: string) => void) {
    this.#log = log;
  }

  /** Readable when the rest is over; made by the first one. */
  get timerFd(): number {
    return this.#timer?.fd ?? -1;
  }

  /** @param result what reading returned: a negative errno, or 0 for its end */
  failed(result: number): void {
    if (result === 0 || GONE.includes(-result)) {
      this.gone = true;
      this.#log(
        `receiving from the tap failed (${nameOf(result)}): the tap is gone; was it removed?`,
      );
      return;
    }
    if (!this.#told) {
      this.#told = true;
      this.#log(`receiving from the tap failed (${nameOf(result)}); retrying`);
    }
    if (++this.#inARow < PATIENCE) return;
    this.#timer ??= new Timerfd();
    this.#timer.arm(REST_NS);
    this.resting = true;
  }

  /** A packet came. HOT. */
  worked(): void {
    this.#inARow = 0;
  }

  /** `timerFd` is readable. */
  rested(): void {
    if (this.#timer?.drain() === true) this.resting = false;
  }

  close(): void {
    this.#timer?.close();
    this.#timer = undefined;
    this.resting = false;
  }
}

function nameOf(result: number): string {
  return result === 0 ? 'end of file' : sys.errnoName(-result);
}
