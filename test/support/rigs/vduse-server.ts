/** A disk that answers what a test lets it, a kernel that it is served to, and the driver's queue. */
import { VIRTIO_ID_BLOCK } from '../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { signalEventfd } from '../../../src/host/fd.ts';
import { deviceShape } from '../../../src/machine/devices/virtio-plan.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { VduseBackend } from '../../../src/vduse/vduse-backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { DefinedDevice } from '../../../src/virtio/device-sdk/defined-device.ts';
import { FakeVduse } from '../fakes/vduse.ts';

export const DRIVER_OK = 15;
const SIZE = 16;
const RAM = 4 * MiB;

/** A driver that is up, and its kernel. */
export class VduseDriver implements Disposable {
  readonly kernel = new FakeVduse();
  readonly queue: DriverQueue;
  readonly #ram = new Ram(RAM, 'memfd');

  constructor(packed: boolean) {
    const features = featureSet(
      VIRTIO_F_VERSION_1,
      VIRTIO_F_ACCESS_PLATFORM,
      ...(packed ? [VIRTIO_F_RING_PACKED] : []),
    );
    const heap = new GuestHeap(this.#ram.memory, 0x1000, RAM);
    this.queue = createDriverQueue(heap, { size: SIZE, features });
    this.kernel.ram = { fd: this.#ram.memory.share.fd, size: RAM };
    this.kernel.negotiated = features;
    // A packed ring starts with both wrap counters set (virtio 1.3 §2.8.1).
    this.kernel.queues.push({ ...this.queue.config, base: packed ? 1 : 0 });
  }

  /** Sends requests of one byte, with room for one. */
  send(...numbers: readonly number[]): void {
    for (const number of numbers) {
      this.queue.add({ readable: [Uint8Array.of(number)], writable: [1] });
    }
    if (this.queue.kick()) signalEventfd(this.kernel.kicks.get(0) ?? -1);
  }

  /** What requests got that were answered since the last call. */
  answers(): (number | undefined)[] {
    return this.queue.completed().map(({ data }) => data[0]);
  }

  [Symbol.dispose](): void {
    this.#ram.close();
    this.kernel.close();
  }
}

/** A server of a disk that answers what it is let to. */
export class DiskServer implements AsyncDisposable {
  /** Requests that wait for `finish`, by their first byte. */
  readonly waiting = new Map<number, (error?: Error) => void>();
  readonly log: string[] = [];
  readonly device: BackendDevice;
  readonly backend: VduseBackend;

  constructor(kernel: FakeVduse, folder: string, { size = SIZE, name = 'disk0' } = {}) {
    const disk = new DefinedDevice('disk', {
      deviceId: VIRTIO_ID_BLOCK,
      queues: {
        requestq: {
          size,
          handle: (request) => {
            const number = request.readUint(0, 1);
            return new Promise((resolve, reject) => {
              this.waiting.set(number, (error) => {
                this.waiting.delete(number);
                if (error !== undefined) return reject(error);
                request.write(Uint8Array.of(number));
                resolve();
              });
            });
          },
        },
      },
    });
    const shape = deviceShape(disk, { packed: true, ringReset: false });
    this.device = new BackendDevice(disk, shape.features, shape.queueSizes, (text) =>
      this.log.push(text),
    );
    this.backend = new VduseBackend(name, this.device, { kernel, folder });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const finish of this.waiting.values()) finish();
    await this.backend.close();
    await this.device.close();
  }
}
