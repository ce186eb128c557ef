/** Makes the driver's side of a virtqueue of either format. */
import {
  hasFeature,
  pvirtq_event_suppress,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  virtq_desc,
  virtq_used_elem,
} from '../abi/virtio-ring.ts';
import { DriverPackedQueue } from './driver-packed-queue.ts';
import type { DriverQueue, DriverQueueLayout } from './driver-queue.ts';
import { DriverSplitQueue } from './driver-split-queue.ts';
import type { GuestHeap } from './guest-heap.ts';

/** A fresh queue's parameters. */
export interface DriverQueueOptions {
  readonly index?: number;
  readonly size: number;
  /** All negotiated feature bits. */
  readonly features: bigint;
  readonly kickFd?: number;
  readonly callFd?: number;
}

/** Lays a queue out in guest RAM, as a driver does before it enables it. */
export function createDriverQueue(heap: GuestHeap, options: DriverQueueOptions): DriverQueue {
  const { index = 0, size, features, kickFd = -1, callFd = -1 } = options;
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  const area = (length: number): { gpa: number; view: DataView } => {
    const gpa = heap.allocate(length);
    heap.bytes(gpa, length).fill(0);
    return { gpa, view: heap.view(gpa, length) };
  };
  const descriptor = area(virtq_desc.size * size);
  const driver = area(packed ? pvirtq_event_suppress.size : 6 + 2 * size);
  const device = area(packed ? pvirtq_event_suppress.size : 6 + virtq_used_elem.size * size);
  const layout: DriverQueueLayout = {
    heap,
    config: {
      index,
      size,
      descriptorArea: descriptor.gpa,
      driverArea: driver.gpa,
      deviceArea: device.gpa,
      kickFd,
      callFd,
    },
    descriptorArea: descriptor.view,
    driverArea: driver.view,
    deviceArea: device.view,
    indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
    eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
    inOrder: hasFeature(features, VIRTIO_F_IN_ORDER),
  };
  return packed ? new DriverPackedQueue(layout) : new DriverSplitQueue(layout);
}
