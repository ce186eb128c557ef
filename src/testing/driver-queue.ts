/**
 * The driver's side of a virtqueue in guest RAM, for tests and benchmarks that run without a
 * guest. It follows the specification's driver requirements; tests that want to break them write
 * to the three areas directly.
 */
import {
  pvirtq_event_suppress,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  virtq_desc,
  virtq_used_elem,
} from '../abi/virtio-ring.ts';
import { hasFeature } from '../virtio/features.ts';
import type { QueueConfig } from '../virtio/queue/virtqueue.ts';
import type { BufferRequest, CompletedBuffer } from './driver-buffer.ts';
import { DriverPackedQueue } from './driver-packed-queue.ts';
import { DriverSplitQueue } from './driver-split-queue.ts';
import type { GuestHeap } from './guest-heap.ts';

/** The driver's side of a queue, whichever its format. */
export interface DriverQueue {
  /** What the device side is made from. */
  readonly config: QueueConfig;
  /** The areas' bytes, to look at and to corrupt. */
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  /** Descriptors that are free. */
  readonly free: number;
  /** Buffers that the device has. */
  readonly inFlight: number;
  /**
   * Makes a buffer available to the device.
   * @returns a token that `completed` gives back
   * @throws UsageError when the queue has no room
   */
  add(request: BufferRequest): number;
  /** True when the device wants a notification for what was added since the last call. */
  kick(): boolean;
  /**
   * Takes the buffers that the device has used since the last call, in the order of their use. While
   * interrupts are on it asks for the next one, as Linux does.
   */
  completed(): CompletedBuffer[];
  /** Asks for interrupts; true when unseen buffers were used. A queue starts with them on. */
  enableInterrupts(): boolean;
  /** Tells the device that interrupts are not needed for now. */
  disableInterrupts(): void;
}

/** A fresh queue's parameters. */
export interface DriverQueueOptions {
  readonly index?: number;
  readonly size: number;
  /** All negotiated feature bits. */
  readonly features: bigint;
  readonly kickFd?: number;
  readonly callFd?: number;
}

/** What both formats are built on. */
export interface DriverQueueParts {
  readonly heap: GuestHeap;
  readonly config: QueueConfig;
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/** Lays a queue out in guest RAM, as a driver does before it enables it. */
export function createDriverQueue(heap: GuestHeap, options: DriverQueueOptions): DriverQueue {
  const { size, features } = options;
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  const event = pvirtq_event_suppress.size;
  const lengths = packed
    ? [virtq_desc.size * size, event, event]
    : [virtq_desc.size * size, 6 + 2 * size, 6 + virtq_used_elem.size * size];
  const areas = lengths.map((length) => {
    const gpa = heap.allocate(length);
    heap.bytes(gpa, length).fill(0);
    return { gpa, view: heap.view(gpa, length) };
  });
  const [descriptor, driver, device] = areas as [Area, Area, Area];
  const parts: DriverQueueParts = {
    heap,
    config: {
      index: options.index ?? 0,
      size,
      descriptorArea: descriptor.gpa,
      driverArea: driver.gpa,
      deviceArea: device.gpa,
      kickFd: options.kickFd ?? -1,
      callFd: options.callFd ?? -1,
    },
    descriptorArea: descriptor.view,
    driverArea: driver.view,
    deviceArea: device.view,
    indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
    eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
    inOrder: hasFeature(features, VIRTIO_F_IN_ORDER),
  };
  return packed ? new DriverPackedQueue(parts) : new DriverSplitQueue(parts);
}

interface Area {
  readonly gpa: number;
  readonly view: DataView;
}
