/** What identifiers and bits are called, for people: device types, feature bits, device status. */
import * as balloon from './virtio-balloon.ts';
import * as blk from './virtio-blk.ts';
import * as console from './virtio-console.ts';
import * as iommu from './virtio-iommu.ts';
import * as mem from './virtio-mem.ts';
import * as net from './virtio-net.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  FAILED,
  FEATURES_OK,
} from './virtio-pci.ts';
import * as pmem from './virtio-pmem.ts';
import * as ring from './virtio-ring.ts';
import * as vsock from './virtio-vsock.ts';

/** virtio 1.3 §5, by device ID. */
const DEVICE_TYPES: Readonly<Record<number, string>> = {
  1: 'network',
  2: 'block',
  3: 'console',
  4: 'entropy',
  5: 'traditional memory balloon',
  8: 'SCSI host',
  9: '9P transport',
  13: 'memory balloon',
  16: 'GPU',
  18: 'input',
  19: 'socket',
  20: 'crypto',
  23: 'IOMMU',
  24: 'memory',
  25: 'sound',
  26: 'file system',
  27: 'persistent memory',
  34: 'I2C adapter',
  35: 'watchdog',
  36: 'CAN',
  40: 'Bluetooth',
  41: 'GPIO',
  45: 'SPI controller',
};

/** §2.1. */
const STATUS_BITS: Readonly<Record<string, number>> = {
  ACKNOWLEDGE,
  DRIVER,
  FEATURES_OK,
  DRIVER_OK,
  DEVICE_NEEDS_RESET,
  FAILED,
};

type FeatureNames = ReadonlyMap<number, string>;

/** The constants of a module whose names start so, by their values. */
function namesByBit(module: object, prefix: string): FeatureNames {
  const named = Object.entries(module).filter(([name]) => name.startsWith(prefix));
  return new Map(named.map(([name, bit]) => [Number(bit), name]));
}

const RING_FEATURES = namesByBit(ring, 'VIRTIO_F_');
const DEVICE_FEATURES: Readonly<Record<number, FeatureNames>> = {
  [net.VIRTIO_ID_NET]: namesByBit(net, 'VIRTIO_NET_F_'),
  [blk.VIRTIO_ID_BLOCK]: namesByBit(blk, 'VIRTIO_BLK_F_'),
  [console.VIRTIO_ID_CONSOLE]: namesByBit(console, 'VIRTIO_CONSOLE_F_'),
  [balloon.VIRTIO_ID_BALLOON]: namesByBit(balloon, 'VIRTIO_BALLOON_F_'),
  [iommu.VIRTIO_ID_IOMMU]: namesByBit(iommu, 'VIRTIO_IOMMU_F_'),
  [mem.VIRTIO_ID_MEM]: namesByBit(mem, 'VIRTIO_MEM_F_'),
  [pmem.VIRTIO_ID_PMEM]: namesByBit(pmem, 'VIRTIO_PMEM_F_'),
  [vsock.VIRTIO_ID_VSOCK]: namesByBit(vsock, 'VIRTIO_VSOCK_F_'),
};

/** The kind of device behind an ID, e.g. `network`; undefined if the ID is unassigned or unknown. */
export function deviceTypeName(deviceId: number): string | undefined {
  return DEVICE_TYPES[deviceId];
}

/** A feature bit's name, e.g. `VIRTIO_NET_F_MAC`; undefined for one of a device's own. */
export function featureName(deviceId: number, bit: number): string | undefined {
  return RING_FEATURES.get(bit) ?? DEVICE_FEATURES[deviceId]?.get(bit);
}

/** The known bits that are set in a device status, by name. */
export function statusNames(status: number): string[] {
  return Object.entries(STATUS_BITS).flatMap(([name, bit]) => ((status & bit) === 0 ? [] : [name]));
}

/** A device status in one line: the names of its bits, the rest as a number; 0 for none. */
export function statusText(status: number): string {
  const names = statusNames(status);
  const other = Object.values(STATUS_BITS).reduce((rest, bit) => rest & ~bit, status);
  if (other !== 0) names.push(`0x${other.toString(16)}`);
  return names.length === 0 ? '0' : names.join(' | ');
}
