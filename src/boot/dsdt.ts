/** The DSDT's AML: PCI host bridge, serial port, clock, panic device, generation ID, devices in memory, sleep states. */

import { HIGH_RAM_BASE, LOW_RAM_LIMIT } from '../memory/ram-layout.ts';
import * as layout from '../platform/layout.ts';
import { GED_CPU_HOTPLUG, GED_GENERATION, GED_PCI_HOTPLUG } from '../platform/power.ts';
import * as aml from './aml.ts';
import { GENERATION_ID_GPA } from './boot-layout.ts';
import { CPU_HOTPLUG_METHOD, cpuHotplug, PCI_HOTPLUG_METHOD, pciHotplug } from './hotplug-aml.ts';

const PORTS = 0x1_0000;

/** INTx of every slot and pin: neighbors differ, and pin A of slot n has GSI 16 + n % 4. */
function interruptRouting(): aml.Aml {
  const entries: aml.Aml[] = [];
  for (let slot = 1; slot < layout.PCI_SLOTS; slot++) {
    for (let pin = 0; pin < 4; pin++) {
      // §6.2.13: any function of the slot, pin, no link device, GSI.
      const gsi = layout.PCI_INTX_GSI_BASE + ((slot + pin) % layout.PCI_INTX_GSI_COUNT);
      const address = slot * 0x1_0000 + 0xffff;
      const fields = [address, pin, 0, gsi].map(aml.integer);
      entries.push(aml.packageOf(...fields));
    }
  }
  return aml.packageOf(...entries);
}

function hostBridge(
  ramSize: number,
  physicalAddressBits: number,
  fixedSlots: readonly number[],
): aml.Aml {
  const window64 = pciMmio64Window(ramSize, physicalAddressBits);
  const mmio32 = {
    base: layout.PCI_MMIO32_BASE,
    size: layout.PCI_MMIO32_LIMIT - layout.PCI_MMIO32_BASE,
  };
  const configEnd = layout.PCI_CONFIG_ADDRESS_PORT + 8;
  return aml.device(
    'PCI0',
    aml.name('_HID', aml.eisaId('PNP0A08')),
    aml.name('_CID', aml.eisaId('PNP0A03')),
    aml.name('_SEG', aml.integer(0)),
    aml.name('_BBN', aml.integer(0)),
    aml.name('_UID', aml.integer(0)),
    aml.name(
      '_CRS',
      aml.resourceTemplate(
        aml.busNumbers({ base: 0, size: 1 }),
        aml.ioPorts({ base: layout.PCI_CONFIG_ADDRESS_PORT, size: 8 }),
        aml.ioWindow({ base: 0, size: layout.PCI_CONFIG_ADDRESS_PORT }),
        aml.ioWindow({ base: configEnd, size: PORTS - configEnd }),
        aml.memoryWindow32(mmio32),
        ...(window64 === undefined ? [] : [aml.memoryWindow64(window64)]),
      ),
    ),
    aml.name('_PRT', interruptRouting()),
    pciOsc(),
    ...pciHotplug(fixedSlots),
  );
}

/** §5.6.9.3: on the interrupt, the guest reads what happened, and notifies the device concerned. */
function eventDevice(hasCpuHotplug: boolean): aml.Aml {
  /** §5.6.6, device specific: the generation ID has changed. */
  const changed = 0x80;
  return aml.device(
    'GED',
    aml.name('_HID', aml.string('ACPI0013')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_CRS', aml.resourceTemplate(aml.edgeInterrupt(layout.GED_GSI))),
    aml.ioRegion('EVTR', layout.GED_PORT, 1),
    aml.byteField('EVTR', 'EVTS'),
    aml.serializedMethod(
      '_EVT',
      1,
      aml.store(aml.nameString('EVTS'), aml.local0),
      aml.ifTrue(
        aml.and(aml.local0, aml.integer(GED_GENERATION), aml.nullName),
        aml.notify('\\_SB.VGEN', changed),
      ),
      aml.ifTrue(
        aml.and(aml.local0, aml.integer(GED_PCI_HOTPLUG), aml.nullName),
        aml.nameString(PCI_HOTPLUG_METHOD),
      ),
      ...(hasCpuHotplug
        ? [
            aml.ifTrue(
              aml.and(aml.local0, aml.integer(GED_CPU_HOTPLUG), aml.nullName),
              aml.nameString(CPU_HOTPLUG_METHOD),
            ),
          ]
        : []),
    ),
  );
}

/** "Virtual Machine Generation ID" (Microsoft, 2018): 16 bytes in memory that no operating system uses. */
function generationId(): aml.Aml {
  return aml.device(
    'VGEN',
    aml.name('_HID', aml.string('NVMM0001')),
    // Linux goes by the first.
    aml.name('_CID', aml.packageOf(aml.string('VMGENCTR'), aml.string('VM_Gen_Counter'))),
    aml.name('_DDN', aml.string('VM_Gen_Counter')),
    aml.name('_UID', aml.integer(0)),
    aml.name('ADDR', aml.packageOf(aml.integer(GENERATION_ID_GPA), aml.integer(0))),
  );
}

/** §7.4.2: SLP_TYP for PM1a and PM1b. */
function sleepState(path: string, type: number): aml.Aml {
  return aml.name(path, aml.packageOf(...[type, 0, 0, 0].map(aml.integer)));
}

/** A virtio device in memory, which no bus would find. */
export interface MmioDevice {
  readonly address: number;
  readonly size: number;
  readonly gsi: number;
}

/** The ID that Linux's virtio_mmio and edk2 look for. */
function mmioDevice({ address, size, gsi }: MmioDevice, index: number): aml.Aml {
  return simpleDevice(
    `V${index.toString().padStart(3, '0')}`,
    aml.string('LNRO0005'),
    index,
    aml.memory32Fixed({ base: address, size }),
    aml.levelInterrupt(gsi),
  );
}

function isaDevice(path: string, hid: aml.Aml, ...descriptors: readonly aml.Aml[]): aml.Aml {
  return simpleDevice(path, hid, 0, ...descriptors);
}

function simpleDevice(
  path: string,
  hid: aml.Aml,
  uid: number,
  ...descriptors: readonly aml.Aml[]
): aml.Aml {
  return aml.device(
    path,
    aml.name('_HID', hid),
    aml.name('_UID', aml.integer(uid)),
    aml.name('_STA', aml.integer(0xf)),
    aml.name('_CRS', aml.resourceTemplate(...descriptors)),
  );
}

/**
 * The definition block of the DSDT, without its header.
 * @param ramSize bytes of guest RAM
 * @param physicalAddressBits width of the guest's physical addresses
 * @param fixedSlots of PCI bus 0, whose devices stay
 * @param maxCpus the CPUs that the machine can have, if it may get and lose some
 */
export function dsdtBlock(
  ramSize: number,
  physicalAddressBits: number,
  mmioDevices: readonly MmioDevice[],
  fixedSlots: readonly number[] = [],
  maxCpus = 1,
): Uint8Array {
  const cpus = cpuHotplug(maxCpus);
  const ecam = { base: layout.PCI_ECAM_BASE, size: layout.PCI_ECAM_SIZE };
  return Uint8Array.from([
    ...aml.scope(
      '\\_SB',
      hostBridge(ramSize, physicalAddressBits, fixedSlots),
      // PCI Firmware 3.2 §4.1.2: ECAM is reserved by a motherboard resource device.
      isaDevice('MBRD', aml.eisaId('PNP0C02'), aml.memory32Fixed(ecam)),
      isaDevice(
        'COM1',
        aml.eisaId('PNP0501'),
        aml.ioPorts({ base: layout.COM1_PORT, size: 8 }),
        aml.edgeInterrupt(layout.COM1_GSI),
      ),
      isaDevice(
        'RTC',
        aml.eisaId('PNP0B00'),
        aml.ioPorts({ base: layout.CMOS_PORT, size: 2 }),
        aml.edgeInterrupt(layout.RTC_GSI),
      ),
      ...cpus,
      eventDevice(cpus.length > 0),
      generationId(),
      isaDevice(
        'PEVT',
        aml.string('QEMU0001'),
        aml.ioPorts({ base: layout.PVPANIC_PORT, size: 1 }),
      ),
      ...mmioDevices.map(mmioDevice),
    ),
    ...sleepState('\\_S3', layout.SLEEP_TYPE_S3),
    ...sleepState('\\_S5', layout.SLEEP_TYPE_S5),
  ]);
}

// _OSC of the PCI host bridge (ACPI 6.5 §6.2.12, PCI Firmware 3.3 §4.5.1): which features of PCI
// Express the operating system may control.

/** UUID of a PCI host bridge's capabilities, and the revision that is spoken. */
const PCI_HOST_BRIDGE_UUID = '33db4d5b-1ff7-401c-9657-7441c03dd766';
const REVISION = 1;
/** The buffer's 32-bit words: status, support, control. */
const WORDS = 3;

/** Bits of the status word. */
const STATUS_FAILURE = 1 << 1;
const STATUS_UNRECOGNIZED_UUID = 1 << 2;
const STATUS_UNRECOGNIZED_REVISION = 1 << 3;
const STATUS_CAPABILITIES_MASKED = 1 << 4;

/** Bits of the control word. */
export const OSC_NATIVE_HOT_PLUG = 1 << 0;
export const OSC_SHPC_HOT_PLUG = 1 << 1;
export const OSC_PME = 1 << 2;
export const OSC_AER = 1 << 3;
export const OSC_CAPABILITY_STRUCTURE = 1 << 4;
export const OSC_LTR = 1 << 5;
export const OSC_DPC = 1 << 7;

/** No firmware is active at run time that could use any of them itself. */
export const OSC_GRANTED =
  OSC_NATIVE_HOT_PLUG |
  OSC_SHPC_HOT_PLUG |
  OSC_PME |
  OSC_AER |
  OSC_CAPABILITY_STRUCTURE |
  OSC_LTR |
  OSC_DPC;

/**
 * The method. It keeps no state: what was granted once is granted in every later call too, and a
 * query (bit 0 of the status word) is answered like a request.
 */
export function pciOsc(): aml.Aml {
  const [uuid, revision, words, capabilities] = [aml.arg(0), aml.arg(1), aml.arg(2), aml.arg(3)];
  const status = aml.nameString('STAT');
  const control = aml.nameString('CTRL');
  const flag = (bit: number): aml.Aml => aml.or(status, aml.integer(bit), status);
  const refuse = (bit: number): aml.Aml[] => [flag(bit), aml.returnValue(capabilities)];
  return aml.serializedMethod(
    '_OSC',
    4,
    aml.createDWordField(capabilities, 0, 'STAT'),
    aml.ifTrue(
      aml.notEqual(uuid, aml.uuid(PCI_HOST_BRIDGE_UUID)),
      ...refuse(STATUS_UNRECOGNIZED_UUID),
    ),
    aml.ifTrue(
      aml.notEqual(revision, aml.integer(REVISION)),
      ...refuse(STATUS_UNRECOGNIZED_REVISION),
    ),
    aml.ifTrue(aml.less(words, aml.integer(WORDS)), ...refuse(STATUS_FAILURE)),
    aml.createDWordField(capabilities, 8, 'CTRL'),
    aml.and(control, aml.integer(OSC_GRANTED), aml.LOCAL0),
    aml.ifTrue(aml.notEqual(aml.LOCAL0, control), flag(STATUS_CAPABILITIES_MASKED)),
    aml.store(aml.LOCAL0, control),
    aml.returnValue(capabilities),
  );
}

const LARGEST = 64 * 2 ** 30;
const SMALLEST = 2 ** 30;

/**
 * The window for 64-bit BARs: above RAM, aligned to its size, at most 64 GiB, halved until it
 * fits below the end of the guest's physical addresses.
 * @param ramSize bytes of guest RAM
 * @param physicalAddressBits as in the guest's CPUID 0x80000008
 * @returns undefined when not even 1 GiB fits
 */
export function pciMmio64Window(
  ramSize: number,
  physicalAddressBits: number,
): { readonly base: number; readonly size: number } | undefined {
  const ramEnd = HIGH_RAM_BASE + Math.max(0, ramSize - LOW_RAM_LIMIT);
  for (let size = LARGEST; size >= SMALLEST; size /= 2) {
    const base = Math.ceil(ramEnd / size) * size;
    if (base + size <= 2 ** physicalAddressBits) return { base, size };
  }
  return undefined;
}
