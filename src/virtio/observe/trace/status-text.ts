/** A device's status in words (virtio 1.3 §2.1). */
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  FAILED,
  FEATURES_OK,
} from '../../../abi/virtio-pci.ts';

const BITS: readonly (readonly [bit: number, name: string])[] = [
  [ACKNOWLEDGE, 'ACKNOWLEDGE'],
  [DRIVER, 'DRIVER'],
  [FEATURES_OK, 'FEATURES_OK'],
  [DRIVER_OK, 'DRIVER_OK'],
  [DEVICE_NEEDS_RESET, 'DEVICE_NEEDS_RESET'],
  [FAILED, 'FAILED'],
];

/** The names of a status's bits; 0 for none. */
export function statusText(status: number): string {
  const known = BITS.filter(([bit]) => (status & bit) !== 0).map(([, name]) => name);
  const other = BITS.reduce((rest, [bit]) => rest & ~bit, status);
  if (other !== 0) known.push(`0x${other.toString(16)}`);
  return known.length === 0 ? '0' : known.join(' | ');
}
