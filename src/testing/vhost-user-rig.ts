/** A driver in guest RAM that other processes can map, in front of a vhost-user device: no KVM. */
import type { DatapathEvents } from '../datapath/datapath.ts';
import { AsyncCloseable } from '../host/cleanup-stack.ts';
import { drainEventfd, Eventfd, signalEventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import type { DeniedAccess } from '../memory/guest-memory.ts';
import { IovaSpace } from '../memory/iova-space.ts';
import { Ram } from '../memory/ram.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { VhostUserDevice } from '../vhost-user/frontend/vhost-user-device.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import { createDriverQueue } from './create-driver-queue.ts';
import type { BufferRequest, CompletedBuffer, DriverQueue } from './driver-queue.ts';
import { GuestHeap } from './guest-heap.ts';

const DEADLINE_MS = 10_000;

/** One activation of a device after the other. */
export class VhostUserRig extends AsyncCloseable {
  readonly ram = new Ram(16 * MiB, 'memfd');
  /** Behind an IOMMU: nothing is mapped at first. */
  readonly space: IovaSpace | undefined;
  readonly denied: DeniedAccess[] = [];
  readonly heap: GuestHeap;
  readonly logs: string[] = [];
  readonly broken: string[] = [];
  readonly queues: DriverQueue[] = [];
  readonly device: VhostUserDevice;
  readonly #datapath: ReturnType<VhostUserDevice['createDatapath']>;
  readonly #kicks: Eventfd[] = [];
  readonly #calls: Eventfd[] = [];
  readonly #watches: LoopWatch[] = [];
  #notified: () => void = () => {};

  /** @param translated puts the device behind an IOMMU, whose first 16 MiB must be mapped before it starts */
  constructor(device: VhostUserDevice, translated = false) {
    super();
    this.device = device;
    this.space = translated ? new IovaSpace(this.ram.memory) : undefined;
    this.heap = new GuestHeap(this.space?.memory ?? this.ram.memory, MiB, 16 * MiB);
    const events: DatapathEvents = {
      broken: (reason, denied) => {
        if (denied !== undefined) this.denied.push(denied);
        this.#hear(this.broken, reason);
      },
      log: (text) => this.#hear(this.logs, text),
      message: () => {},
    };
    this.#datapath = device.createDatapath(events);
    device.attach({
      updateConfig: (change) => {
        change(new DataView(device.config.buffer, device.config.byteOffset, device.config.length));
        this.#notified();
      },
      readConfig: () => Uint8Array.from(device.config),
      post: () => {},
    });
  }

  /** @param features those that the driver accepts */
  async start(features: bigint, size = 64): Promise<void> {
    for (const index of this.device.queues.keys()) {
      const kick = new Eventfd();
      const call = new Eventfd();
      this.#kicks.push(kick);
      this.#calls.push(call);
      this.#watches.push(
        new LoopWatch(call.fd, LOOP_READABLE, () => {
          drainEventfd(call.fd);
          this.#notified();
        }),
      );
      const options = { index, size, features, kickFd: kick.fd, callFd: call.fd };
      this.queues.push(createDriverQueue(this.heap, options));
    }
    await this.resume(features);
  }

  async resume(features: bigint, states?: ReadonlyMap<number, VringState>): Promise<void> {
    const queues = this.queues.map(({ config }) => {
      const state = states?.get(config.index);
      return state === undefined ? config : { ...config, state };
    });
    const { share: memory } = this.space ?? this.ram.memory;
    await this.#datapath.start({ memory, features, queues }, this.space);
  }

  /** @param continuing whether `resume` follows */
  stop(continuing = true): Promise<ReadonlyMap<number, VringState>> {
    return this.#datapath.stop(continuing ? [...this.queues.keys()] : []);
  }

  add(queue: number, request: BufferRequest): void {
    this.queues[queue]?.add(request);
    this.kick(queue);
  }

  /** Notifies the device of the added buffers, if it asked for that. */
  kick(queue: number): void {
    const driver = this.queues[queue];
    if (driver?.kick() === true) signalEventfd(driver.config.kickFd);
  }

  /** Resolves to the next used buffers. */
  async completed(queue: number, count = 1): Promise<CompletedBuffer[]> {
    const done: CompletedBuffer[] = [];
    await this.until(() => {
      done.push(...(this.queues[queue]?.completed() ?? []));
      return done.length >= count;
    }, `${count} used buffers`);
    return done;
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + DEADLINE_MS;
    while (!condition()) {
      if (Date.now() >= deadline) {
        throw new Error(`no ${what}; reported: ${[...this.logs, ...this.broken].join(' | ')}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 200);
        this.#notified = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async close(): Promise<void> {
    await this.#datapath.close();
    this.device.close();
    for (const watch of this.#watches) watch.close();
    for (const fd of [...this.#kicks, ...this.#calls]) fd.close();
    this.space?.close();
    this.ram[Symbol.dispose]();
  }

  #hear(where: string[], text: string): void {
    where.push(text);
    this.#notified();
  }
}
