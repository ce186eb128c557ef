/**
 * Reset of a whole bus or slot (VFIO_DEVICE_PCI_HOT_RESET), for functions that cannot be reset on their own. It
 * takes proof that all of its functions are this process's.
 */
import {
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
} from '../abi/iommufd.ts';
import * as abi from '../abi/vfio.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

/** Functions on a bus: 32 devices of 8. */
const MOST = 256;

/** Who else would be reset. */
export interface HotResetInfo {
  /** Addresses of all functions on the bus, the device's among them. */
  readonly addresses: readonly string[];
  /** IOMMU groups of all functions on the bus; empty if the device was opened without its group. */
  readonly groups: readonly number[];
  /** Without groups: all of them are ours. */
  readonly owned: boolean;
}

/** What the kernel wrote: a `vfio_pci_hot_reset_info`, and the devices. */
export function parseHotResetInfo(view: DataView): HotResetInfo {
  const { flags, count, size } = abi.vfio_pci_hot_reset_info;
  const device = abi.vfio_pci_dependent_device;
  const room = Math.floor((view.byteLength - size) / device.size);
  const places = Array.from(
    { length: Math.min(view.getUint32(count.offset, true), room) },
    (_, index) => size + index * device.size,
  );
  const addresses = places.map((at) => {
    const devfn = view.getUint8(at + device.devfn.offset);
    const segment = hex(view.getUint16(at + device.segment.offset, true), 4);
    const bus = hex(view.getUint8(at + device.bus.offset), 2);
    return `${segment}:${bus}:${hex(devfn >> 3, 2)}.${devfn & 7}`;
  });
  const found = view.getUint32(flags.offset, true);
  if ((found & VFIO_PCI_HOT_RESET_FLAG_DEV_ID) !== 0) {
    const owned = (found & VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED) !== 0;
    return { addresses, groups: [], owned };
  }
  const groups = places.map((at) => view.getUint32(at + device.group_id.offset, true));
  return { addresses, groups: [...new Set(groups)], owned: false };
}

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

/** @returns undefined when its bus cannot be reset */
export function readHotResetInfo(device: number): HotResetInfo | undefined {
  const room = MOST * abi.vfio_pci_dependent_device.size;
  const info = new StructMemory(abi.vfio_pci_hot_reset_info, room);
  info.set('argsz', info.bytes.length);
  const asked = sys.ioctl(device, abi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info.address);
  return asked < 0 ? undefined : parseHotResetInfo(info.view);
}

/** @param groups files of the groups; none without groups. @returns 0 or a negative errno */
export function hotReset(device: number, groups: readonly number[]): number {
  const { size } = abi.vfio_pci_hot_reset;
  const request = new StructMemory(abi.vfio_pci_hot_reset, groups.length * 4);
  request.set('argsz', request.bytes.length);
  request.set('count', groups.length);
  groups.forEach((fd, at) => {
    request.view.setInt32(size + at * 4, fd, true);
  });
  return sys.ioctl(device, abi.VFIO_DEVICE_PCI_HOT_RESET, request.address);
}
