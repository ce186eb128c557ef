/** A reactor that polls its descriptors only when a test pumps it, through poll(2). */
import { EINTR } from '../abi/errno.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { Reactor } from '../virtio/device.ts';

/** Bytes of a struct pollfd: fd, events, revents. */
const POLLFD_SIZE = 8;

/** `READABLE` and `WRITABLE` have the values of POLLIN and POLLOUT. */
export class PumpReactor implements Reactor {
  readonly #ready: (token: number, events: number) => void;
  readonly #watches = new Map<number, { readonly events: number; readonly token: number }>();

  /** @param ready where to deliver */
  constructor(ready: (token: number, events: number) => void) {
    this.#ready = ready;
  }

  watch(fd: number, events: number, token: number): void {
    if (events === 0) this.#watches.delete(fd);
    else this.#watches.set(fd, { events, token });
  }

  /** Ends every watch. */
  clear(): void {
    this.#watches.clear();
  }

  /**
   * Delivers what is ready, once for each descriptor.
   * @param timeoutMs how long to wait for the first one
   * @returns how many were ready
   * @throws HostError when poll fails
   */
  pump(timeoutMs: number): number {
    const watches = [...this.#watches];
    const polled = new NativeMemory(Math.max(1, watches.length) * POLLFD_SIZE);
    watches.forEach(([fd, { events }], i) => {
      polled.view.setInt32(i * POLLFD_SIZE, fd, true);
      polled.view.setInt16(i * POLLFD_SIZE + 4, events, true);
    });
    const count = sys.poll(polled.address, watches.length, timeoutMs);
    if (count === -EINTR) return 0;
    sys.check(count, 'poll', `${watches.length} descriptors`);
    watches.forEach(([fd, { token }], i) => {
      const events = polled.view.getInt16(i * POLLFD_SIZE + 6, true);
      if (events !== 0 && this.#watches.has(fd)) this.#ready(token, events);
    });
    return count;
  }
}
