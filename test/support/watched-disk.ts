/** A data half of a disk that tells another thread how much it was asked to move, and waits for it. */
import { BlkHandler } from '../../src/virtio/device/blk/blk-handler.ts';
import type { QueueHandler } from '../../src/virtio/device.ts';
import { CountingDisk } from './fake-disk.ts';

/** Calls of the engine so far. */
export const CALLS = 0;
/** 1: the first call returns. */
export const GO = 1;

export interface WatchedDiskOptions {
  readonly blk: ConstructorParameters<typeof BlkHandler>[0];
  readonly words: Int32Array<SharedArrayBuffer>;
}

/** Makes it, in a queue worker. */
export function createHandler(options: unknown): QueueHandler {
  const { blk, words } = options as WatchedDiskOptions;
  const called = (): void => {
    Atomics.add(words, CALLS, 1);
    Atomics.notify(words, CALLS);
    Atomics.wait(words, GO, 0);
  };
  return new BlkHandler(blk, () => new CountingDisk(true, called));
}
