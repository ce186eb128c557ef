/**
 * `nodevmm/testing`: the basis of a device's tests, without KVM or a guest.
 * @module nodevmm/testing
 */

export { createDriverQueue, type DriverQueueOptions } from './create-driver-queue.ts';
export { DeviceRig } from './device-rig.ts';
export type { BufferRequest, CompletedBuffer, DriverQueue } from './driver-queue.ts';
export { GuestHeap } from './guest-heap.ts';
export { TestDriver, type TestDriverOptions } from './test-driver.ts';
