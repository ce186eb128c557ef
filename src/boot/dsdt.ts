/** The DSDT's AML: PCI host bridge, serial port, clock, panic device, devices in memory, power-off. */

import {
  CMOS_PORT,
  COM1_GSI,
  COM1_PORT,
  GED_GSI,
  GED_PORT,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_ECAM_BASE,
  PCI_ECAM_SIZE,
  PCI_INTX_GSI_BASE,
  PCI_INTX_GSI_COUNT,
  PCI_MMIO32_BASE,
  PCI_MMIO32_LIMIT,
  PCI_SLOTS,
  PVPANIC_PORT,
  RTC_GSI,
  SLEEP_TYPE_S5,
} from '../platform/layout.ts';
import { GED_POWER_BUTTON } from '../platform/power.ts';
import * as aml from './aml.ts';
import * as resources from './aml-resources.ts';
import { pciOsc } from './pci-osc.ts';
import { pciMmio64Window } from './pci-window.ts';

const PORTS = 0x1_0000;

/** INTx of every slot and pin: neighbors differ, and pin A of slot n has GSI 16 + n % 4. */
function interruptRouting(): aml.Aml {
  const entries: aml.Aml[] = [];
  for (let slot = 1; slot < PCI_SLOTS; slot++) {
    for (let pin = 0; pin < 4; pin++) {
      // §6.2.13: any function of the slot, pin, no link device, GSI.
      const gsi = PCI_INTX_GSI_BASE + ((slot + pin) % PCI_INTX_GSI_COUNT);
      const address = slot * 0x1_0000 + 0xffff;
      const fields = [address, pin, 0, gsi].map(aml.integer);
      entries.push(aml.packageOf(...fields));
    }
  }
  return aml.packageOf(...entries);
}

function hostBridge(ramSize: number, physicalAddressBits: number): aml.Aml {
  const window64 = pciMmio64Window(ramSize, physicalAddressBits);
  const mmio32 = { base: PCI_MMIO32_BASE, size: PCI_MMIO32_LIMIT - PCI_MMIO32_BASE };
  const configEnd = PCI_CONFIG_ADDRESS_PORT + 8;
  return aml.device(
    'PCI0',
    aml.name('_HID', aml.eisaId('PNP0A08')),
    aml.name('_CID', aml.eisaId('PNP0A03')),
    aml.name('_SEG', aml.integer(0)),
    aml.name('_BBN', aml.integer(0)),
    aml.name('_UID', aml.integer(0)),
    aml.name(
      '_CRS',
      resources.resourceTemplate(
        resources.busNumbers({ base: 0, size: 1 }),
        resources.ioPorts({ base: PCI_CONFIG_ADDRESS_PORT, size: 8 }),
        resources.ioWindow({ base: 0, size: PCI_CONFIG_ADDRESS_PORT }),
        resources.ioWindow({ base: configEnd, size: PORTS - configEnd }),
        resources.memoryWindow32(mmio32),
        ...(window64 === undefined ? [] : [resources.memoryWindow64(window64)]),
      ),
    ),
    aml.name('_PRT', interruptRouting()),
    pciOsc(),
  );
}

/** §5.6.9.3: the interrupt has the guest read what has happened, and tell the device concerned. */
function eventDevice(): aml.Aml {
  /** §5.6.6: the button was pressed. */
  const pressed = 0x80;
  return aml.device(
    'GED',
    aml.name('_HID', aml.string('ACPI0013')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_CRS', resources.resourceTemplate(resources.edgeInterrupt(GED_GSI))),
    aml.ioRegion('EVTR', GED_PORT, 1),
    aml.byteField('EVTR', 'EVTS'),
    aml.serializedMethod(
      '_EVT',
      1,
      aml.store(aml.nameString('EVTS'), aml.local0),
      aml.ifTrue(
        aml.and(aml.local0, aml.integer(GED_POWER_BUTTON), aml.nullName),
        aml.notify('\\_SB.PWRB', pressed),
      ),
    ),
  );
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
    resources.memory32Fixed({ base: address, size }),
    resources.levelInterrupt(gsi),
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
    aml.name('_CRS', resources.resourceTemplate(...descriptors)),
  );
}

/**
 * The definition block of the DSDT, without its header.
 * @param ramSize bytes of guest RAM
 * @param physicalAddressBits width of the guest's physical addresses
 */
export function dsdtBlock(
  ramSize: number,
  physicalAddressBits: number,
  mmioDevices: readonly MmioDevice[],
): Uint8Array {
  const ecam = { base: PCI_ECAM_BASE, size: PCI_ECAM_SIZE };
  return Uint8Array.from([
    ...aml.scope(
      '\\_SB',
      hostBridge(ramSize, physicalAddressBits),
      // PCI Firmware 3.2 §4.1.2: ECAM is reserved by a motherboard resource device.
      isaDevice('MBRD', aml.eisaId('PNP0C02'), resources.memory32Fixed(ecam)),
      isaDevice(
        'COM1',
        aml.eisaId('PNP0501'),
        resources.ioPorts({ base: COM1_PORT, size: 8 }),
        resources.edgeInterrupt(COM1_GSI),
      ),
      isaDevice(
        'RTC',
        aml.eisaId('PNP0B00'),
        resources.ioPorts({ base: CMOS_PORT, size: 2 }),
        resources.edgeInterrupt(RTC_GSI),
      ),
      eventDevice(),
      // §4.8.3.2.2: a control method power button.
      aml.device('PWRB', aml.name('_HID', aml.eisaId('PNP0C0C')), aml.name('_UID', aml.integer(0))),
      isaDevice('PEVT', aml.string('QEMU0001'), resources.ioPorts({ base: PVPANIC_PORT, size: 1 })),
      ...mmioDevices.map(mmioDevice),
    ),
    // §7.4.2: SLP_TYP is the first element, also for the sleep control register.
    ...aml.name('\\_S5', aml.packageOf(...[SLEEP_TYPE_S5, 0, 0, 0].map(aml.integer))),
  ]);
}
