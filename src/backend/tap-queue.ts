/**
 * One queue of a tap, as the thread that serves it sees it: packets with a 12-byte virtio-net
 * header in front, moved by the kernel between the tap and the buffers that an iovec names.
 *
 * HOT.
 */

import { EBADF, EBADFD, ENODEV, ENXIO } from '../abi/errno.ts';
import {
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  ifreq,
  TUNSETOFFLOAD,
  TUNSETQUEUE,
} from '../abi/tun.ts';
import { Timerfd } from '../host/fd.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

/** A tap's queue by its descriptor, which `Tap` owns. */
export class TapQueue {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /**
   * Takes one packet.
   * @returns its bytes, header included (no more than fit, the rest is lost); -EAGAIN when there
   *   is none; another negative errno
   */
  receive(iovec: number, count: number): number {
    return sys.readv(this.fd, iovec, count);
  }

  /** Takes one packet into one buffer. As `receive`. */
  receiveInto(address: number, length: number): number {
    return sys.read(this.fd, address, length);
  }

  /**
   * Sends one packet.
   * @returns its bytes; -EAGAIN when the tap is full; another negative errno when the packet
   *   cannot be sent, such as -EINVAL for a header that makes no sense
   */
  transmit(iovec: number, count: number): number {
    return sys.writev(this.fd, iovec, count);
  }

  /** Sets what the reader can take (TUN_F_*), for all queues of the tap. */
  setOffloads(offloads: number): number {
    return sys.ioctl(this.fd, TUNSETOFFLOAD, offloads);
  }

  /** Takes part in the tap's traffic, or no longer; for taps with several queues. */
  setAttached(attached: boolean): number {
    const request = new NativeMemory(ifreq.size);
    const flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    request.view.setUint16(ifreq.ifr_ifru.offset, flags, true);
    return sys.ioctl(this.fd, TUNSETQUEUE, request.address);
  }
}

/** Linux's tun returns EBADFD for a queue whose interface was removed. */
const GONE: readonly number[] = [EBADF, EBADFD, ENODEV, ENXIO];
/** Failures without a packet between them before the tap is left alone. */
const PATIENCE = 8;
const REST_NS = 100e6;

/**
 * Handles the errors of reading a tap, from one activation to its end, in the thread that serves it.
 * Only certain errors mean that the tap is gone: after any other, a packet may arrive at any time.
 * Since a failing tap may stay readable, one that only fails is left alone for a while.
 */
export class ReceiveErrors {
  /** Nothing will ever come from the tap again. */
  gone = false;
  /** The tap is not to be read before `timerFd` is readable, and `rested` was called. */
  resting = false;
  readonly #log: (text: string) => void;
  #inARow = 0;
  #reported = false;
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
    if (!this.#reported) {
      this.#reported = true;
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
