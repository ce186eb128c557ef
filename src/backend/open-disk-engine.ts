/** Chooses the engine of a disk, in the thread that serves it. */
import { HostError } from '../host/errors.ts';
import type { DiskEngine, DiskEngineOptions } from './disk-engine.ts';
import { RingDisk } from './ring-disk.ts';
import { SyncDisk } from './sync-disk.ts';

/**
 * Opens a disk's engine.
 * @param depth the most requests that will be in flight
 * @param log gets one line when `auto` cannot have io_uring
 * @throws HostError when io_uring was asked for and the host does not permit it
 */
export function openDiskEngine(
  options: DiskEngineOptions,
  depth: number,
  log: (text: string) => void,
): DiskEngine {
  if (options.engine === 'sync') return new SyncDisk(options);
  try {
    return new RingDisk(options, depth);
  } catch (error) {
    if (options.engine === 'io_uring' || !(error instanceof HostError)) throw error;
    log(`the disk is served without io_uring: ${error.message}`);
    return new SyncDisk(options);
  }
}

/** Throws now what `openDiskEngine` would throw later. @throws HostError */
export function probeDiskEngine(options: DiskEngineOptions): void {
  if (options.engine === 'io_uring') new RingDisk(options, 2).close();
}
