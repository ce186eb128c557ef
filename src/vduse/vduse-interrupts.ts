/** Interrupts of a VDUSE device's queues: what a datapath signals by eventfds, the kernel gets by ioctls. */
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { Eventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import type { VduseDevice } from './vduse-device.ts';

/**
 * The kernel sets DRIVER_OK when the thread that asked for it has seen our answer, and refuses interrupts until then
 * (`vduse_dev_queue_irq_work`): refused ones are tried again, for as long as that may take on a busy host.
 */
const RETRY_MS = 5;
const RETRIES = 400;

/** Outlives resets. */
export class VduseInterrupts extends Closeable {
  readonly #device: VduseDevice;
  readonly #calls: readonly Eventfd[];
  readonly #owned: CleanupStack;
  readonly #refused = new Set<number>();
  #retry: NodeJS.Timeout | undefined;

  constructor(device: VduseDevice, queues: number) {
    super();
    using stack = new CleanupStack();
    this.#device = device;
    this.#calls = Array.from({ length: queues }, (_, index) => {
      const call = stack.use(new Eventfd());
      stack.use(new LoopWatch(call.fd, LOOP_READABLE, () => call.drain() && this.raise(index)));
      return call;
    });
    this.#owned = stack.move();
  }

  /** The eventfd that interrupts for a queue. */
  fd(index: number): number {
    return this.#calls[index]?.fd ?? -1;
  }

  /** Interrupts the driver for a queue. */
  raise(index: number): void {
    if (this.#device.interrupt(index)) return;
    this.#refused.add(index);
    this.#later(RETRIES);
  }

  /** The driver has reset the device. */
  drop(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#refused.clear();
  }

  close(): void {
    this.drop();
    this.#owned.dispose();
  }

  #later(tries: number): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const index of this.#refused) {
        if (this.#device.interrupt(index)) this.#refused.delete(index);
      }
      if (this.#refused.size > 0 && tries > 1) this.#later(tries - 1);
    }, RETRY_MS);
  }
}
