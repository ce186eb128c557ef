/** A driver of negligible cost: chains are laid out once, and only a few of their words change. */
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, virtq_desc } from '../../src/abi/virtio-ring.ts';
import type { DriverQueue } from '../../src/testing/driver-queue.ts';
import type { GuestHeap } from '../../src/testing/guest-heap.ts';

/** How the driver reaches its device. */
export interface DevicePort {
  /** A split queue with neither event index nor indirect tables. */
  readonly queue: DriverQueue;
  readonly heap: GuestHeap;
  /** Notifies the device of new requests. */
  readonly notify: () => void;
  /** Returns when some request may be done. */
  readonly wait: () => void;
}

/** The common layout of a driver's requests. */
export interface RequestShape {
  /** Buffers that the device reads. */
  readonly readable: readonly Uint8Array[];
  /** Lengths of the buffers that the device writes. */
  readonly writable: readonly number[];
  /** Changes a request before it is made available. @param views its buffers, readable ones first */
  readonly prepare?: (views: readonly DataView[]) => void;
  /** Whether the device completed the request without an error. */
  readonly succeeded?: (views: readonly DataView[]) => boolean;
}

/** Keeps `depth` requests of one shape in flight. */
export class RequestDriver {
  /** By chain, then by buffer. */
  readonly views: DataView[][] = [];
  readonly #port: DevicePort;
  readonly #shape: RequestShape;
  readonly #depth: number;
  readonly #buffers: number;
  /** Other drivers may have used the queue before. */
  #available: number;

  constructor(port: DevicePort, depth: number, shape: RequestShape) {
    this.#port = port;
    this.#shape = shape;
    this.#depth = depth;
    this.#buffers = shape.readable.length + shape.writable.length;
    this.#available = port.queue.driverArea.getUint16(2, true);
    for (let chain = 0; chain < depth; chain++) this.#layOut(chain);
  }

  /** Runs until this many requests are done. @throws Error when one of the last failed */
  run(requests: number): void {
    const { notify, wait, queue } = this.#port;
    const { driverArea, deviceArea, config } = queue;
    let seen = deviceArea.getUint16(2, true);
    let done = 0;
    for (let chain = 0; chain < this.#depth; chain++) this.#offer(chain);
    driverArea.setUint16(2, this.#available, true);
    let left = requests - this.#depth;
    while (done < requests) {
      notify();
      let used = deviceArea.getUint16(2, true);
      while (used === seen) {
        wait();
        used = deviceArea.getUint16(2, true);
      }
      for (; seen !== used; seen = (seen + 1) & 0xffff) {
        const head = deviceArea.getUint32(4 + (seen % config.size) * 8, true);
        if (left-- > 0) this.#offer(head / this.#buffers);
        done++;
      }
      driverArea.setUint16(2, this.#available, true);
    }
    const { succeeded } = this.#shape;
    if (succeeded !== undefined && !this.views.every(succeeded)) {
      throw new Error('the device failed a request');
    }
  }

  /** Requests per second of wall-clock time. */
  rate(requests: number): number {
    const start = performance.now();
    this.run(requests);
    return (requests * 1000) / (performance.now() - start);
  }

  #offer(chain: number): void {
    this.#shape.prepare?.(this.views[chain] as DataView[]);
    const { driverArea, config } = this.#port.queue;
    const entry = 4 + (this.#available % config.size) * 2;
    driverArea.setUint16(entry, chain * this.#buffers, true);
    this.#available = (this.#available + 1) & 0xffff;
  }

  #layOut(chain: number): void {
    const { heap, queue } = this.#port;
    const { readable, writable } = this.#shape;
    const lengths = [...readable.map(({ length }) => length), ...writable];
    const views = lengths.map((length, i) => {
      const gpa = heap.allocate(length);
      const index = chain * this.#buffers + i;
      const at = index * virtq_desc.size;
      const next = i < this.#buffers - 1 ? VIRTQ_DESC_F_NEXT : 0;
      const write = i < readable.length ? 0 : VIRTQ_DESC_F_WRITE;
      queue.descriptorArea.setBigUint64(at, BigInt(gpa), true);
      queue.descriptorArea.setUint32(at + 8, length, true);
      queue.descriptorArea.setUint16(at + 12, next | write, true);
      queue.descriptorArea.setUint16(at + 14, index + 1, true);
      const view = heap.view(gpa, length);
      for (const [at, byte] of (readable[i] ?? []).entries()) view.setUint8(at, byte);
      return view;
    });
    this.views.push(views);
  }
}

/** Bytes of a request to a disk. */
export const BLOCK = 4096;
const SECTOR = 512;
const VIRTIO_BLK_SECTOR = 8;

/** Random reads of a disk (VIRTIO_BLK_T_IN is 0). */
export const diskReads = (size: number, bytes: number = BLOCK): RequestShape => ({
  readable: [new Uint8Array(16)],
  writable: [bytes, 1],
  prepare: ([header]) => {
    const block = Math.floor((Math.random() * size) / bytes);
    header?.setUint32(VIRTIO_BLK_SECTOR, block * (bytes / SECTOR), true);
  },
  succeeded: ([, , status]) => status?.getUint8(0) === 0,
});
