/** Makes the devices that the options ask for. */
import { E1000Device } from '../../nic/device.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import type { ResolvedDevice } from '../resolve-options.ts';
import { DeviceCode } from '../user-devices/device-code.ts';
import type { MadeDevice } from './device-types.ts';
import { E1000MachineDevice } from './e1000-device.ts';
import type { MachineDevice } from './machine-device.ts';
import { VirtioMachineDevice } from './virtio-device.ts';

/**
 * @param made gets the devices, including those made before one that fails; the caller closes them
 * @param log receives lines for the user
 * @throws UsageError or HostError when a file, tap or backend is not available
 */
export async function createDevices(
  wanted: readonly ResolvedDevice[],
  made: MachineDevice[],
  log: (text: string) => void,
): Promise<void> {
  for (const asked of wanted) {
    const device = await createDevice(asked);
    if (device instanceof E1000Device) made.push(new E1000MachineDevice(device, log));
    else if (device instanceof DeviceCode) {
      made.push(new VirtioMachineDevice(device.device, { ...asked, code: device }, log));
    } else made.push(new VirtioMachineDevice(device, asked, log));
  }
}

/** Makes one. @throws UsageError or HostError */
export async function createDevice(asked: ResolvedDevice): Promise<MadeDevice> {
  const { backend, options, context, ring } = asked;
  const { queueSize } = ring;
  // A disk bounds seg_max by it: a chain may not be longer than its queue (§2.7.5.3.1).
  const sized = queueSize === undefined ? context : { ...context, queueSize };
  return await backend.create(options, sized, VhostUserDevice.open);
}
