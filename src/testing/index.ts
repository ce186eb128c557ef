/** `nodevmm/testing`: what a device's tests stand on, without KVM or a guest. */
export { DeviceRig } from './device-rig.ts';
export type { BufferRequest, CompletedBuffer } from './driver-buffer.ts';
export { createDriverQueue, type DriverQueue, type DriverQueueOptions } from './driver-queue.ts';
export { GuestHeap } from './guest-heap.ts';
export { TestDriver, type TestDriverOptions } from './test-driver.ts';
