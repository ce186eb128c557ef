/** The table of device types, which everything type-specific goes through. */
import type { E1000Device } from '../../nic/device.ts';
import { fieldsOf } from '../../options/option-schema.ts';
import type { VfioDevice } from '../../vfio/device.ts';
import { vfioType } from '../../vfio/vfio-type.ts';
import { balloonType } from '../../virtio/device/balloon/balloon.ts';
import { blkType } from '../../virtio/device/blk/blk-type.ts';
import { consoleType } from '../../virtio/device/console/console.ts';
import { fsType } from '../../virtio/device/fs/fs-type.ts';
import { iommuType } from '../../virtio/device/iommu/iommu.ts';
import { memType } from '../../virtio/device/mem/mem.ts';
import { netType } from '../../virtio/device/net/net-type.ts';
import { pmemType } from '../../virtio/device/pmem/pmem.ts';
import { rngType } from '../../virtio/device/rng/rng.ts';
import { vsockType } from '../../virtio/device/vsock/vsock-type.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import type { DeviceBackend, DeviceType } from '../../virtio/device-type.ts';
import { type WatchdogDevice, watchdogType } from '../../watchdog/watchdog-type.ts';
import type { DeviceCode } from '../user-devices/device-code.ts';
import { ownType } from '../user-devices/user-devices.ts';

/** What a machine's device backends create. */
export type MadeDevice = VirtioDevice | E1000Device | VfioDevice | WatchdogDevice | DeviceCode;
export type MachineBackend = DeviceBackend<MadeDevice>;
export type MachineDeviceType = DeviceType<MadeDevice>;

/** In the order of the guest's buses. */
export const DEVICE_TYPES: MachineDeviceType[] = [
  consoleType,
  blkType,
  netType,
  fsType,
  rngType,
  vsockType,
  vfioType,
  ownType,
  iommuType,
  balloonType,
  watchdogType,
  memType,
  pmemType,
];

/** Which backend options are for. @param has whether an option is set, to this value if one is given */
export function chooseBackend(
  { backends }: MachineDeviceType,
  has: (option: string, value?: string) => boolean,
): MachineBackend {
  const chosen = backends.find(
    ({ selector }) => selector !== undefined && has(selector.option, selector.value),
  );
  const backend = chosen ?? backends[0];
  if (backend === undefined) throw new Error('a type of device without backends');
  return backend;
}

/** Which backend options are for. */
export function backendOf(
  type: MachineDeviceType,
  options: Readonly<Record<string, unknown>>,
): MachineBackend {
  return chooseBackend(type, (option, value) => {
    const found = options[option];
    return value === undefined ? found !== undefined : found === value;
  });
}

/** The key of an option on the command line. */
export function keyOf({ options }: MachineBackend, option: string): string | undefined {
  return fieldsOf(options).find(({ path }) => path[0] === option)?.key;
}
