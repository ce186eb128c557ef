/** Hotplug of PCI bus 0 in the DSDT (ACPI 6.5 §5.6.6, §6.3): a device for each slot, and what notifies the guest of it. */

import { HOTPLUG_SIZE } from '../platform/hotplug-registers.ts';
import * as layout from '../platform/layout.ts';
import * as aml from './aml.ts';

/** Table 5.187, "Device Object Notification Types". */
const BUS_CHECK = 0;
const DEVICE_CHECK = 1;
const EJECT_REQUEST = 3;
/** The bit of the bus in UP. */
const BUS = 1;

/** The method that a hotplug event of the Generic Event Device calls. */
export const PCI_HOTPLUG_METHOD = '\\_SB.PCI0.PCHP';

const pathOf = (slot: number): string => `S${slot.toString(16).toUpperCase().padStart(2, '0')}`;

/**
 * The terms for the host bridge's device.
 * @param fixed slots whose devices stay: they have no device here
 */
export function pciHotplug(fixed: readonly number[]): aml.Aml[] {
  const slots = Array.from({ length: layout.PCI_SLOTS }, (_, slot) => slot).filter(
    (slot) => slot !== 0 && !fixed.includes(slot),
  );
  const [up, down] = [aml.nameString('PCIU'), aml.nameString('PCID')];
  const isSet = (bits: aml.Aml, bit: number): aml.Aml =>
    aml.and(bits, aml.integer(bit), aml.nullName);
  return [
    aml.ioRegion('HPCI', layout.PCI_HOTPLUG_PORT, HOTPLUG_SIZE),
    aml.wordFields('HPCI', 'PCIU', 'PCID', 'PCIE'),
    ...slots.map((slot) =>
      aml.device(
        pathOf(slot),
        // §6.1.1: device and function.
        aml.name('_ADR', aml.integer(slot * 0x1_0000)),
        aml.name('_SUN', aml.integer(slot)),
        aml.method('_EJ0', 1, aml.store(aml.integer(2 ** slot), aml.nameString('PCIE'))),
      ),
    ),
    aml.serializedMethod(
      'PCHP',
      0,
      aml.store(up, aml.local0),
      aml.store(down, aml.local1),
      aml.ifTrue(isSet(aml.local0, BUS), aml.notify('\\_SB.PCI0', BUS_CHECK)),
      ...slots.flatMap((slot) => [
        aml.ifTrue(isSet(aml.local0, 2 ** slot), aml.notify(pathOf(slot), DEVICE_CHECK)),
        aml.ifTrue(isSet(aml.local1, 2 ** slot), aml.notify(pathOf(slot), EJECT_REQUEST)),
      ]),
    ),
  ];
}
