/** vDPA devices of this host, as sysfs shows them. */
import { realpathSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { linkName, namesIn } from '../host/sysfs.ts';
import { type ParentPlace, placeOf } from './parent-place.ts';

const BUS = '/sys/bus/vdpa';

/** One of them. */
export interface HostVdpaDevice {
  readonly name: string;
  /** The driver that has it; undefined: none. */
  readonly driver: string | undefined;
  /** Of vhost-vdpa: `/dev/vhost-vdpa-0`. */
  readonly file: string | undefined;
  readonly place: ParentPlace;
}

/** All of them, by name. @param bus the folder of the vDPA bus; tests substitute their own */
export function listVdpaDevices(bus = BUS): HostVdpaDevice[] {
  return namesIn(join(bus, 'devices'))
    .sort()
    .map((name) => ({ name, ...vdpaDevice(name, bus), place: placeIn(bus, name) }));
}

/** What has a device. @param bus as of `listVdpaDevices` */
export function vdpaDevice(name: string, bus = BUS): Pick<HostVdpaDevice, 'driver' | 'file'> {
  const folder = join(bus, 'devices', name);
  const file = namesIn(folder).find((entry) => /^vhost-vdpa-\d+$/.test(entry));
  return {
    driver: linkName(join(folder, 'driver')),
    file: file === undefined ? undefined : `/dev/${file}`,
  };
}

/**
 * Has a driver take a device, whichever took it first. Off the main thread: a driver's probe waits for what serves the
 * device.
 * @throws Error of node:fs
 */
export async function bindVdpaDevice(name: string, driver: string, bus = BUS): Promise<void> {
  const folder = join(bus, 'devices', name);
  const bound = linkName(join(folder, 'driver'));
  if (bound === driver) return;
  await writeFile(join(folder, 'driver_override'), driver);
  if (bound !== undefined) await writeFile(join(folder, 'driver/unbind'), name);
  await writeFile(join(bus, 'drivers', driver, 'bind'), name);
}

/** Those of buses, such as `pci/0000:01:00.0`, are hardware; simulators and VDUSE have none. */
export const isManagedInHardware = (mgmtdev: string): boolean => mgmtdev.includes('/');

function placeIn(bus: string, name: string): ParentPlace {
  try {
    return placeOf(realpathSync(join(bus, 'devices', name)));
  } catch {
    return placeOf('');
  }
}
