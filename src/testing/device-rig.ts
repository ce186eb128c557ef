/**
 * Runs a device's data half without KVM, guest or threads: guest RAM, queues whose driver side the
 * test plays, and a reactor that the test pumps.
 */
import { EINTR } from '../abi/errno.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { Ram } from '../memory/ram.ts';
import { MiB } from '../memory/ram-layout.ts';
import { ActiveQueue } from '../virtio/active-queue.ts';
import type { QueueHandler, Reactor } from '../virtio/device.ts';
import { createVirtqueue } from '../virtio/queue/create-virtqueue.ts';
import type { Virtqueue, VringState } from '../virtio/queue/virtqueue.ts';
import { createDriverQueue } from './create-driver-queue.ts';
import type { DriverQueue } from './driver-queue.ts';
import { GuestHeap } from './guest-heap.ts';

/** How long `pumpUntil` waits before the test fails. */
const DEADLINE_MS = 10_000;

interface RigQueue {
  readonly driver: DriverQueue;
  readonly device: Virtqueue;
  interrupts: number;
}

/** Stands in for a machine around a handler. */
export class DeviceRig extends Closeable {
  readonly memory: GuestMemory;
  /** For buffers of the test's own. */
  readonly heap: GuestHeap;
  /** What the handler passed to `log` and to `post`. */
  readonly logs: string[] = [];
  readonly posted: unknown[] = [];
  /** What `HandlerContext.isInterrupted` returns. */
  interrupted = false;
  readonly #ram: Ram;
  readonly #reactor: PumpReactor;
  readonly #kickAgain = new Set<number>();
  #handler: QueueHandler | undefined;
  #queues: (RigQueue | undefined)[] = [];
  #config: Uint8Array | undefined;
  #brokenReason: string | undefined;

  /** @param size bytes of guest RAM; the first MiB stays unused */
  constructor(size = 64 * MiB) {
    super();
    this.#ram = new Ram(size);
    this.memory = this.#ram.memory;
    this.heap = new GuestHeap(this.memory, MiB, Math.min(size, 1024 * MiB));
    this.#reactor = new PumpReactor((token, events) => this.#handler?.ready?.(token, events));
  }

  /**
   * Lays out queues, starts the handler, and kicks each queue once, as a carrier does.
   * @param features all negotiated feature bits: they select the queues' format too
   * @param queueSizes by queue index; undefined where the driver leaves a queue disabled
   * @param config the configuration space at the start
   */
  start(
    handler: QueueHandler,
    features: bigint,
    queueSizes: readonly (number | undefined)[],
    config?: Uint8Array,
  ): void {
    this.#queues = queueSizes.map((size, index) => {
      if (size === undefined) return undefined;
      const driver = createDriverQueue(this.heap, { index, size, features });
      const device = createVirtqueue(this.memory, driver.config, features);
      return { driver, device, interrupts: 0 };
    });
    this.#brokenReason = undefined;
    this.#config = config;
    this.#run(handler, features);
  }

  /**
   * Stops the handler and resumes with a handler: the same, as after a pause, or another, as
   * when the datapath changes.
   * @param served the queues that it gets; absent: all
   */
  handOver(handler: QueueHandler, features: bigint, served?: readonly number[]): void {
    const states = this.stop();
    this.#queues = this.#queues.map((queue, index) => {
      const state = states.get(index);
      if (queue === undefined || state === undefined) return undefined;
      const config = { ...queue.driver.config, state };
      const device = createVirtqueue(this.memory, config, features);
      return { driver: queue.driver, device, interrupts: queue.interrupts };
    });
    this.#run(handler, features, served);
  }

  /** The driver's side of a queue. */
  queue(index: number): DriverQueue {
    return this.#queue(index).driver;
  }

  /** Notifies the device of the added buffers if it wants that. Returns whether it did. */
  kick(index: number): boolean {
    const due = this.#queue(index).driver.kick();
    if (due) this.#handler?.kick(index);
    return due;
  }

  /** Notifies the device even if it did not ask for that, which is legal (§2.7.10.2). */
  notify(index: number): void {
    this.#handler?.kick(index);
  }

  /** A message from the control half, when the handler takes any. */
  message(message: unknown): void {
    this.#handler?.message?.(message);
  }

  /**
   * Delivers what is ready on the descriptors that the handler watches, then the kicks that it
   * asked for with `kickAgain`.
   * @param timeoutMs how long to wait for the first one
   * @returns how many were delivered
   */
  pump(timeoutMs = 0): number {
    const again = [...this.#kickAgain];
    this.#kickAgain.clear();
    const ready = this.#reactor.pump(again.length > 0 ? 0 : timeoutMs);
    for (const index of again) this.#handler?.kick(index);
    return ready + again.length;
  }

  /** Pumps until a condition holds. @throws InternalError when it does not within ten seconds */
  pumpUntil(condition: () => boolean, what = 'the device to answer'): void {
    const deadline = Date.now() + DEADLINE_MS;
    while (!condition()) {
      const left = deadline - Date.now();
      if (left <= 0) throw new InternalError(`waited ten seconds for ${what}`);
      this.pump(left);
    }
  }

  /** How often the device interrupted the driver for a queue. */
  interrupts(index: number): number {
    return this.#queue(index).interrupts;
  }

  /** Why the handler declared the device broken, if it did. */
  get brokenReason(): string | undefined {
    return this.#brokenReason;
  }

  /** Stops the handler. Returns the state of each queue. */
  stop(): ReadonlyMap<number, VringState> {
    this.#handler?.stop();
    this.#handler = undefined;
    this.#reactor.clear();
    this.#kickAgain.clear();
    const states = new Map<number, VringState>();
    for (const queue of this.#queues) {
      if (queue !== undefined) states.set(queue.device.index, queue.device.state());
    }
    return states;
  }

  close(): void {
    this.stop();
    this.#ram[Symbol.dispose]();
  }

  #run(handler: QueueHandler, features: bigint, served?: readonly number[]): void {
    const broken = (reason: string): void => {
      this.#brokenReason ??= reason;
    };
    const queues = this.#queues.map((queue): ActiveQueue | undefined => {
      if (queue === undefined || served?.includes(queue.device.index) === false) return undefined;
      return new ActiveQueue(queue.device, {
        memory: this.memory,
        interrupt: () => {
          queue.interrupts++;
        },
        kickAgain: (index) => {
          this.#kickAgain.add(index);
        },
        isInterrupted: () => this.interrupted,
        broken,
      });
    });
    this.#handler = handler;
    handler.start({
      memory: this.memory,
      features,
      ...(this.#config === undefined ? {} : { config: this.#config }),
      queues,
      reactor: this.#reactor,
      isInterrupted: () => this.interrupted,
      broken,
      log: (text) => {
        this.logs.push(text);
      },
      post: (message) => {
        this.posted.push(message);
      },
    });
    for (const queue of this.#queues) {
      if (queue !== undefined && served?.includes(queue.device.index) !== false) {
        handler.kick(queue.device.index);
      }
    }
  }

  #queue(index: number): RigQueue {
    const queue = this.#queues[index];
    if (queue === undefined) throw new UsageError('E_RIG_QUEUE', `queue ${index} is not enabled`);
    return queue;
  }
}

/** Bytes of a struct pollfd: fd, events, revents. */
const POLLFD_SIZE = 8;

/**
 * A reactor that polls its descriptors only when a test pumps it, through poll(2): `READABLE` and
 * `WRITABLE` have the values of POLLIN and POLLOUT.
 */
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
