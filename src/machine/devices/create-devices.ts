/** Makes the devices that the options ask for, or none at all. */
import { E1000Device } from '../../nic/device.ts';
import { createBlkDevice } from '../../virtio/device/blk/blk.ts';
import { createFsDevice } from '../../virtio/device/fs/fs.ts';
import { createNetDevice } from '../../virtio/device/net/net.ts';
import { createRngDevice } from '../../virtio/device/rng.ts';
import { createVsockDevice } from '../../virtio/device/vsock/vsock.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import type { RingOptions, TransportName, VhostMode } from '../options.ts';
import type { ResolvedOptions } from '../resolve-options.ts';
import type { DeviceCode } from '../user-devices/device-code.ts';

/** A device, and what was asked of whoever carries it. */
export type CreatedDevice =
  | {
      readonly kind: 'virtio';
      readonly device: VirtioDevice;
      readonly transport: TransportName;
      readonly ring: RingOptions;
      readonly vhost: VhostMode;
      /** Its code, when that may change while it runs. */
      readonly code?: DeviceCode;
    }
  | { readonly kind: 'e1000'; readonly device: E1000Device };

/** What its options say of how a device is carried. */
interface Carried {
  readonly transport?: TransportName | undefined;
  readonly ring?: RingOptions | undefined;
}

/** @throws UsageError or HostError when a file or tap cannot be had; those opened before are closed */
export function createDevices(options: ResolvedOptions): CreatedDevice[] {
  const made: CreatedDevice[] = [];
  const add = (device: VirtioDevice, carried: Carried, vhost: VhostMode = 'off'): void => {
    const { transport = options.transport, ring = {} } = carried;
    made.push({ kind: 'virtio', device, transport, ring, vhost });
  };
  try {
    options.disks.forEach(({ ring, transport, ...disk }, index) => {
      const serial = `nodevmm-${index}`;
      // The device bounds seg_max by it: a chain may not be longer than its queue (§2.7.5.3.1).
      const size = ring?.queueSize === undefined ? {} : { queueSize: ring.queueSize };
      add(createBlkDevice({ serial, ...disk, ...size, name: `blk${index}` }), { ring, transport });
    });
    options.nets.forEach(({ ring, transport, vhost, model, ...net }, index) => {
      const name = `net${index}`;
      if (model === 'e1000') made.push({ kind: model, device: new E1000Device({ ...net, name }) });
      else add(createNetDevice({ ...net, name }), { ring, transport }, vhost);
    });
    const shares = options.fileSystems;
    shares.forEach(({ ring, transport, ...share }, index) => {
      const size = ring?.queueSize === undefined ? {} : { queueSize: ring.queueSize };
      const name = `fs${index}`;
      add(createFsDevice({ ...share, ...size, name, devices: shares.length }), { ring, transport });
    });
    if (options.rng !== undefined) add(createRngDevice({ name: 'rng0' }), options.rng);
    if (options.vsock !== undefined) {
      const { ring, transport, vhost, ...vsock } = options.vsock;
      add(createVsockDevice({ ...vsock, name: 'vsock0' }), { ring, transport }, vhost);
    }
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
  return made;
}
