/** Makes the virtio devices that the options ask for, or none at all. */
import { createBlkDevice } from '../virtio/device/blk.ts';
import { createNetDevice } from '../virtio/device/net.ts';
import { createRngDevice } from '../virtio/device/rng.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { RingOptions, VhostMode } from './options.ts';
import type { ResolvedOptions } from './resolve-options.ts';

/** A device, and what was asked of whoever carries it. */
export interface CreatedDevice {
  readonly device: VirtioDevice;
  readonly ring: RingOptions;
  readonly vhost: VhostMode;
}

/** @throws UsageError or HostError when a file or tap cannot be had; those opened before are closed */
export function createDevices(options: ResolvedOptions): CreatedDevice[] {
  const made: CreatedDevice[] = [];
  const add = (device: VirtioDevice, ring: RingOptions = {}, vhost: VhostMode = 'off'): void => {
    made.push({ device, ring, vhost });
  };
  try {
    options.disks.forEach(({ ring, ...disk }, index) => {
      const serial = `nodevmm-${index}`;
      // The device bounds seg_max by it: a chain may not be longer than its queue (§2.7.5.3.1).
      const size = ring?.queueSize === undefined ? {} : { queueSize: ring.queueSize };
      add(createBlkDevice({ serial, ...disk, ...size, name: `blk${index}` }), ring);
    });
    options.nets.forEach(({ ring, vhost, ...net }, index) => {
      add(createNetDevice({ ...net, name: `net${index}` }), ring, vhost);
    });
    if (options.rng !== undefined) add(createRngDevice({ name: 'rng0' }), options.rng.ring);
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
  return made;
}
