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
import { createOwnDevices } from '../user-devices/user-devices.ts';
import { E1000MachineDevice } from './e1000-device.ts';
import type { MachineDevice } from './machine-device.ts';
import { createVhostUserDevices } from './vhost-user-devices.ts';
import { VirtioMachineDevice } from './virtio-device.ts';

/** What its options say of how a device is carried. */
interface Carried {
  readonly transport?: TransportName | undefined;
  readonly ring?: RingOptions | undefined;
}

/**
 * @param made gets the devices, also those made before one that fails; the caller closes them
 * @param log gets lines for the person who runs the machine
 * @throws UsageError or HostError when a file, tap or back end is not available
 */
export async function createDevices(
  options: ResolvedOptions,
  made: MachineDevice[],
  log: (text: string) => void,
): Promise<void> {
  const add = (device: VirtioDevice, carried: Carried, vhost: VhostMode = 'off'): void => {
    const { transport = options.transport, ring = {} } = carried;
    made.push(new VirtioMachineDevice(device, { transport, ring, vhost }, log));
  };
  options.disks.forEach(({ ring, transport, ...disk }, index) => {
    const serial = `nodevmm-${index}`;
    // The device bounds seg_max by it: a chain may not be longer than its queue (§2.7.5.3.1).
    const size = ring?.queueSize === undefined ? {} : { queueSize: ring.queueSize };
    add(createBlkDevice({ serial, ...disk, ...size, name: `blk${index}` }), { ring, transport });
  });
  options.nets.forEach(({ ring, transport, vhost, model, ...net }, index) => {
    const name = `net${index}`;
    if (model === 'e1000') {
      made.push(new E1000MachineDevice(new E1000Device({ ...net, name }), log));
    } else add(createNetDevice({ ...net, name }), { ring, transport }, vhost);
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
  for (const { device, ...carried } of await createOwnDevices(options.devices)) {
    const { transport = options.transport } = carried;
    made.push(new VirtioMachineDevice(device, { ...carried, transport }, log));
  }
  for (const { device, ...carried } of await createVhostUserDevices(options)) add(device, carried);
}
