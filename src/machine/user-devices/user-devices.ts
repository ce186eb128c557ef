/** Devices that the caller brings: written by a person, in a file or in the calling program. */

import type { VirtioDevice } from '../../virtio/device.ts';
import { DefinedDevice } from '../../virtio/device-sdk/defined-device.ts';
import type { CarriedOptions, OwnDeviceOptions } from '../options.ts';
import { DeviceCode } from './device-code.ts';

/** A device of the caller's own. */
export interface OwnDevice extends CarriedOptions {
  readonly device: VirtioDevice;
  /** Absent when it cannot change. */
  readonly code?: DeviceCode;
}

/**
 * Makes them all, or none.
 * @throws UsageError when a file cannot be loaded, or what it defines cannot be a device
 */
export async function createOwnDevices(devices: readonly OwnDeviceOptions[]): Promise<OwnDevice[]> {
  const made: OwnDevice[] = [];
  try {
    for (const [index, options] of devices.entries()) {
      const { transport, ring } = options;
      made.push({
        ...(await createOwnDevice(`own${index}`, options)),
        ...(transport === undefined ? {} : { transport }),
        ...(ring === undefined ? {} : { ring }),
      });
    }
    return made;
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
}

async function createOwnDevice(name: string, from: OwnDeviceOptions): Promise<OwnDevice> {
  if ('device' in from) return { device: from.device };
  if ('definition' in from) {
    return { device: new DefinedDevice(name, from.definition(from.options ?? {})) };
  }
  const code = await DeviceCode.open(name, from);
  return { device: code.device, code };
}
