/**
 * One queue of a tap, as the thread that serves it sees it: packets with a 12-byte virtio-net
 * header in front, moved by the kernel between the tap and the buffers that an iovec names.
 *
 * HOT.
 */
import {
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  ifreq,
  TUNSETOFFLOAD,
  TUNSETQUEUE,
} from '../abi/tun.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

/** Nothing to read, or no room to write. */
export const EAGAIN = 11;

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

  /** Says what the reader can take (TUN_F_*); it holds for all queues of the tap. */
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
