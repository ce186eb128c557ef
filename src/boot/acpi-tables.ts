/** ACPI tables of a PC, in the guest's first MiB where every loader protocol looks. */
import * as acpi from '../abi/acpi.ts';
import { InternalError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import * as layout from '../platform/layout.ts';
import { RTC_CENTURY } from '../platform/rtc.ts';
import { littleEndian } from './aml.ts';
import {
  ACPI_GPA,
  ACPI_LIMIT,
  ACPI_TABLES_GPA,
  FACS_GPA,
  GENERATION_ID_GPA,
} from './boot-layout.ts';
import { dsdtBlock, type MmioDevice } from './dsdt.ts';
import { type ViotOptions, viotBody } from './viot.ts';

const OEM_ID = 'NODEVM';
const OEM_TABLE_ID = 'NODEVMM ';
const CREATOR_ID = 'NVMM';
const HEADER = acpi.DESCRIPTION_HEADER;
/** ECAM takes 1 MiB a bus. */
const ECAM_BYTES_PER_BUS = 2 ** 20;
const ALL_PROCESSORS = 0xff;

/** What the tables depend on. */
export interface AcpiOptions {
  /** vCPUs; their local APIC ids are 0 to cpus - 1. */
  readonly cpus: number;
  /** Those that it may have later, if that can change. Default: it cannot. */
  readonly maxCpus?: number;
  /** As `GuestMemory.reach`. */
  readonly ramSize: number;
  /** Width of the guest's physical addresses, which limits the window for 64-bit BARs. */
  readonly physicalAddressBits: number;
  /** Devices that are to be found by the tables. */
  readonly mmioDevices: readonly MmioDevice[];
  /** Slots of PCI bus 0 whose devices cannot be ejected. Default none. */
  readonly fixedSlots?: readonly number[];
  /** Absent: the machine has no IOMMU. */
  readonly viot?: ViotOptions | undefined;
  /** 16 bytes that no other machine has. */
  readonly generationId: Uint8Array;
}

/** Writes all tables. Returns the guest physical address of the RSDP. */
export function writeAcpiTables(memory: GuestMemory, options: AcpiOptions): number {
  // Guest physical addresses below 3 GiB are RAM offsets.
  memory.bytes(ACPI_GPA, ACPI_LIMIT - ACPI_GPA).fill(0);
  memory.bytes(FACS_GPA, acpi.FACS.size).set(facs());
  setGenerationId(memory, options.generationId);
  let free = ACPI_TABLES_GPA;
  const place = (table: Uint8Array): number => {
    const gpa = free;
    if (gpa + table.length > ACPI_LIMIT) throw new InternalError('ACPI tables exceed 64 KiB');
    memory.bytes(gpa, table.length).set(table);
    free = Math.ceil((gpa + table.length) / 64) * 64;
    return gpa;
  };
  const { ramSize, physicalAddressBits, mmioDevices, fixedSlots, viot } = options;
  const block = dsdtBlock(ramSize, physicalAddressBits, mmioDevices, fixedSlots, options.maxCpus);
  const dsdt = place(table('DSDT', 2, block));
  const tables = [fadt(dsdt), madt(options.cpus, options.maxCpus), mcfg(), waet()];
  if (viot !== undefined) tables.push(table('VIOT', 0, viotBody(viot)));
  const xsdt = place(
    table(
      'XSDT',
      1,
      tables.map(place).flatMap((gpa) => littleEndian(gpa, 8)),
    ),
  );
  memory.bytes(ACPI_GPA, acpi.RSDP.size).set(rsdp(xsdt));
  return ACPI_GPA;
}

/** Writes the generation ID; a running guest has to be notified. @param id 16 bytes */
export function setGenerationId(memory: GuestMemory, id: Uint8Array): void {
  memory.bytes(GENERATION_ID_GPA, id.length).set(id);
}

/** §5.2.6: a table whose bytes sum to 0. */
function table(signature: string, revision: number, body: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(HEADER.size + body.length);
  const view = new DataView(bytes.buffer);
  writeAscii(bytes, HEADER.Signature.offset, signature);
  view.setUint32(HEADER.Length.offset, bytes.length, true);
  bytes[HEADER.Revision.offset] = revision;
  writeAscii(bytes, HEADER.OEMID.offset, OEM_ID);
  writeAscii(bytes, HEADER.OEMTableID.offset, OEM_TABLE_ID);
  view.setUint32(HEADER.OEMRevision.offset, 1, true);
  writeAscii(bytes, HEADER.CreatorID.offset, CREATOR_ID);
  view.setUint32(HEADER.CreatorRevision.offset, 1, true);
  bytes.set(body, HEADER.size);
  bytes[HEADER.Checksum.offset] = checksum(bytes);
  return bytes;
}

function writeAscii(bytes: Uint8Array, offset: number, text: string): void {
  new TextEncoder().encodeInto(text, bytes.subarray(offset));
}

function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

function rsdp(xsdtGpa: number): Uint8Array {
  const bytes = new Uint8Array(acpi.RSDP.size);
  const view = new DataView(bytes.buffer);
  writeAscii(bytes, acpi.RSDP.Signature.offset, acpi.RSDP_SIGNATURE);
  writeAscii(bytes, acpi.RSDP.OEMID.offset, OEM_ID);
  bytes[acpi.RSDP.Revision.offset] = acpi.RSDP_REVISION;
  view.setUint32(acpi.RSDP.Length.offset, bytes.length, true);
  view.setUint32(acpi.RSDP.XsdtAddress.offset, xsdtGpa, true);
  bytes[acpi.RSDP.Checksum.offset] = checksum(bytes.subarray(0, acpi.RSDP_V1_LENGTH));
  bytes[acpi.RSDP.ExtendedChecksum.offset] = checksum(bytes);
  return bytes;
}

/**
 * §5.2.9. Fixed hardware is the PM1 blocks and no more, with the buttons and the clock's alarm as fixed events (their flags
 * are 0). There is no SMI_CMD: the machine is in ACPI mode from the start.
 */
function fadt(dsdtGpa: number): Uint8Array {
  const body = new Uint8Array(acpi.FADT_LENGTH - HEADER.size);
  const view = new DataView(body.buffer);
  const at = (offset: number): number => offset - HEADER.size;
  const ioRegister = (offset: number, port: number, size: number, accessSize: number): void => {
    const base = at(offset);
    body[base + acpi.GENERIC_ADDRESS.AddressSpaceID.offset] = acpi.ADDRESS_SPACE_SYSTEM_IO;
    body[base + acpi.GENERIC_ADDRESS.RegisterBitWidth.offset] = 8 * size;
    body[base + acpi.GENERIC_ADDRESS.AccessSize.offset] = accessSize;
    view.setUint32(base + acpi.GENERIC_ADDRESS.Address.offset, port, true);
  };
  view.setUint32(at(acpi.FADT_FIRMWARE_CTRL), FACS_GPA, true);
  view.setUint16(at(acpi.FADT_SCI_INT), layout.SCI_GSI, true);
  view.setUint32(at(acpi.FADT_PM1A_EVT_BLK), layout.PM1_EVENT_PORT, true);
  view.setUint32(at(acpi.FADT_PM1A_CNT_BLK), layout.PM1_CONTROL_PORT, true);
  body[at(acpi.FADT_PM1_EVT_LEN)] = layout.PM1_EVENT_SIZE;
  body[at(acpi.FADT_PM1_CNT_LEN)] = layout.PM1_CONTROL_SIZE;
  view.setUint16(at(acpi.FADT_P_LVL2_LAT), acpi.FADT_NO_C2, true);
  view.setUint16(at(acpi.FADT_P_LVL3_LAT), acpi.FADT_NO_C3, true);
  body[at(acpi.FADT_CENTURY)] = RTC_CENTURY;
  view.setUint16(
    at(acpi.FADT_IAPC_BOOT_ARCH),
    acpi.IAPC_VGA_NOT_PRESENT | acpi.IAPC_PCIE_ASPM_CONTROLS,
    true,
  );
  view.setUint32(
    at(acpi.FADT_FLAGS),
    acpi.FADT_WBINVD | acpi.FADT_PROC_C1 | acpi.FADT_RESET_REG_SUP | acpi.FADT_HEADLESS,
    true,
  );
  ioRegister(acpi.FADT_RESET_REG, layout.RESET_PORT, 1, acpi.ACCESS_SIZE_BYTE);
  body[at(acpi.FADT_RESET_VALUE)] = layout.RESET_VALUE;
  body[at(acpi.FADT_MINOR_VERSION)] = 5;
  view.setUint32(at(acpi.FADT_X_DSDT), dsdtGpa, true);
  const { ACCESS_SIZE_WORD } = acpi;
  const { PM1_EVENT_PORT, PM1_EVENT_SIZE, PM1_CONTROL_PORT, PM1_CONTROL_SIZE } = layout;
  ioRegister(acpi.FADT_X_PM1A_EVT_BLK, PM1_EVENT_PORT, PM1_EVENT_SIZE, ACCESS_SIZE_WORD);
  ioRegister(acpi.FADT_X_PM1A_CNT_BLK, PM1_CONTROL_PORT, PM1_CONTROL_SIZE, ACCESS_SIZE_WORD);
  writeAscii(body, at(acpi.FADT_HYPERVISOR_VENDOR_IDENTITY), OEM_TABLE_ID);
  return table('FACP', acpi.FADT_REVISION, body);
}

/** §5.2.10: where a guest that sleeps leaves the address at which it wants to be woken. */
function facs(): Uint8Array {
  const bytes = new Uint8Array(acpi.FACS.size);
  writeAscii(bytes, acpi.FACS.Signature.offset, acpi.FACS_SIGNATURE);
  new DataView(bytes.buffer).setUint32(acpi.FACS.Length.offset, bytes.length, true);
  bytes[acpi.FACS.Version.offset] = acpi.FACS_VERSION;
  return bytes;
}

/** The address at which a guest that sleeps wants to be woken, in real mode; 0 when it named none. */
export function wakingVector(memory: GuestMemory): number {
  return memory.readU32(memory.offset(FACS_GPA + acpi.FACS.FirmwareWakingVector.offset, 4));
}

/** §5.2.12: a local APIC for each vCPU, one I/O APIC, the ISA interrupts in use as edge, and the SCI. */
function madt(cpus: number, maxCpus = cpus): Uint8Array {
  const body = [
    ...littleEndian(layout.LOCAL_APIC_ADDRESS, 4),
    ...littleEndian(acpi.MADT_PCAT_COMPAT, 4),
  ];
  for (let id = 0; id < maxCpus; id++) {
    const flag = id < cpus ? acpi.LOCAL_APIC_ENABLED : acpi.LOCAL_APIC_ONLINE_CAPABLE;
    const flags = littleEndian(flag, 4);
    body.push(acpi.MADT_PROCESSOR_LOCAL_APIC, 8, id, id, ...flags);
  }
  body.push(
    acpi.MADT_IO_APIC,
    12,
    0,
    0,
    ...littleEndian(layout.IOAPIC_ADDRESS, 4),
    ...littleEndian(0, 4),
  );
  for (const [gsi, flags] of [
    [layout.COM1_GSI, acpi.MPS_INTI_HIGH_EDGE],
    [layout.GED_GSI, acpi.MPS_INTI_HIGH_EDGE],
    [layout.RTC_GSI, acpi.MPS_INTI_HIGH_EDGE],
    [layout.SCI_GSI, acpi.MPS_INTI_HIGH_LEVEL],
  ] as const) {
    const entry = [...littleEndian(gsi, 4), ...littleEndian(flags, 2)];
    body.push(acpi.MADT_INTERRUPT_SOURCE_OVERRIDE, 10, 0, gsi, ...entry);
  }
  body.push(acpi.MADT_LOCAL_APIC_NMI, 6, ALL_PROCESSORS, 0, 0, 1);
  return table('APIC', acpi.MADT_REVISION, body);
}

/** PCI Firmware 3.2 §4.1.2: address, segment group, first and last bus of each ECAM range. */
function mcfg(): Uint8Array {
  const lastBus = layout.PCI_ECAM_SIZE / ECAM_BYTES_PER_BUS - 1;
  const entry = [...littleEndian(layout.PCI_ECAM_BASE, 8), 0, 0, 0, lastBus, 0, 0, 0, 0];
  return table('MCFG', 1, [...littleEndian(0, 8), ...entry]);
}

function waet(): Uint8Array {
  return table('WAET', 1, littleEndian(acpi.WAET_PM_TIMER_GOOD, 4));
}
