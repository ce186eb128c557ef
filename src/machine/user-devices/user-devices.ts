/** Devices that the caller brings: written by a person, in a file or in the calling program. */

import type { VirtioDevice } from '../../virtio/device.ts';
import { DefinedDevice } from '../../virtio/device-sdk/defined-device.ts';
import type { CreatedDevice } from '../devices/create-devices.ts';
import type { OwnDeviceOptions, TransportName } from '../options.ts';
import { DeviceCode } from './device-code.ts';

/**
 * Makes them all, or none.
 * @param transport of those that do not say
 * @throws UsageError when a file cannot be loaded, or what it defines cannot be carried
 */
export async function createOwnDevices(
  devices: readonly OwnDeviceOptions[],
  transport: TransportName,
): Promise<CreatedDevice[]> {
  const made: CreatedDevice[] = [];
  try {
    for (const [index, options] of devices.entries()) {
      const created = await createOwnDevice(`own${index}`, options);
      const ring = options.ring ?? {};
      const carried = { transport: options.transport ?? transport, ring, vhost: 'off' } as const;
      made.push({ kind: 'virtio', ...created, ...carried });
    }
    return made;
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
}

async function createOwnDevice(
  name: string,
  from: OwnDeviceOptions,
): Promise<{ readonly device: VirtioDevice; readonly code?: DeviceCode }> {
  if ('device' in from) return { device: from.device };
  if ('definition' in from) {
    return { device: new DefinedDevice(name, from.definition(from.options ?? {})) };
  }
  const code = await DeviceCode.open(name, from);
  return { device: code.device, code };
}
