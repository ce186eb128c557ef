/**
 * Hotplug in the DSDT (ACPI 6.5 §5.6.6, §6.3): a device for each slot of PCI bus 0, and for each CPU, and what notifies the
 * guest of them.
 */

import { LOCAL_APIC_ENABLED, MADT_PROCESSOR_LOCAL_APIC } from '../abi/acpi.ts';
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

/** As `PCI_HOTPLUG_METHOD`. */
export const CPU_HOTPLUG_METHOD = '\\_SB.CPHP';
/** §6.3.7: present, enabled, shown, functioning. */
const STATUS_PRESENT = 0xf;

const cpuPath = (cpu: number): string => `C${cpu.toString().padStart(3, '0')}`;

/**
 * The terms for the system bus.
 * @param cpus that the machine can have; none: it keeps those that it has, and no terms are needed
 */
export function cpuHotplug(cpus: number): aml.Aml[] {
  const all = Array.from({ length: cpus }, (_, cpu) => cpu);
  const removable = all.slice(1);
  if (removable.length === 0) return [];
  const [up, down, there] = ['CPUU', 'CPUD', 'CPUE'].map(aml.nameString) as [
    aml.Aml,
    aml.Aml,
    aml.Aml,
  ];
  const isSet = (bits: aml.Aml, cpu: number): aml.Aml =>
    aml.and(bits, aml.integer(2 ** cpu), aml.nullName);
  return [
    aml.ioRegion('HCPU', layout.CPU_HOTPLUG_PORT, HOTPLUG_SIZE),
    aml.wordFields('HCPU', 'CPUU', 'CPUD', 'CPUE'),
    ...all.map((cpu) =>
      aml.device(
        cpuPath(cpu),
        // §8.4: a processor device; its _UID is the MADT's processor UID.
        aml.name('_HID', aml.string('ACPI0007')),
        aml.name('_UID', aml.integer(cpu)),
        ...(cpu === 0 ? [] : removal(cpu, isSet(there, cpu), there)),
      ),
    ),
    aml.serializedMethod(
      'CPHP',
      0,
      aml.store(up, aml.local0),
      aml.store(down, aml.local1),
      ...removable.flatMap((cpu) => [
        aml.ifTrue(isSet(aml.local0, cpu), aml.notify(cpuPath(cpu), DEVICE_CHECK)),
        aml.ifTrue(isSet(aml.local1, cpu), aml.notify(cpuPath(cpu), EJECT_REQUEST)),
      ]),
    ),
  ];
}

function removal(cpu: number, isThere: aml.Aml, there: aml.Aml): aml.Aml[] {
  return [
    aml.method(
      '_STA',
      0,
      aml.ifTrue(isThere, aml.returnValue(aml.integer(STATUS_PRESENT))),
      aml.returnValue(aml.integer(0)),
    ),
    // §6.2.10: its entry of the MADT, once it is there.
    aml.name(
      '_MAT',
      aml.buffer([MADT_PROCESSOR_LOCAL_APIC, 8, cpu, cpu, LOCAL_APIC_ENABLED, 0, 0, 0]),
    ),
    aml.method('_EJ0', 1, aml.store(aml.integer(2 ** cpu), there)),
  ];
}
