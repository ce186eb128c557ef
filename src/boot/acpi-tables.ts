/** ACPI tables of a hardware-reduced PC, in the guest's first MiB where every loader protocol looks. */
import * as acpi from '../abi/acpi.ts';
import { InternalError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import * as layout from '../platform/layout.ts';
import { littleEndian } from './aml.ts';
import { ACPI_GPA, ACPI_LIMIT } from './boot-layout.ts';
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
  /** Bytes of guest RAM. */
  readonly ramSize: number;
  /** Width of the guest's physical addresses, which limits the window for 64-bit BARs. */
  readonly physicalAddressBits: number;
  /** Devices that are to be found by the tables. */
  readonly mmioDevices: readonly MmioDevice[];
  /** Slots of PCI bus 0 whose devices cannot be ejected. Default none. */
  readonly fixedSlots?: readonly number[];
  /** Absent: the machine has no IOMMU. */
  readonly viot?: ViotOptions | undefined;
}

/** Writes all tables. Returns the guest physical address of the RSDP. */
export function writeAcpiTables(memory: GuestMemory, options: AcpiOptions): number {
  // Guest physical addresses below 3 GiB are RAM offsets.
  memory.bytes(ACPI_GPA, ACPI_LIMIT - ACPI_GPA).fill(0);
  let free = ACPI_GPA + Math.ceil(acpi.RSDP.size / 64) * 64;
  const place = (table: Uint8Array): number => {
    const gpa = free;
    if (gpa + table.length > ACPI_LIMIT) throw new InternalError('ACPI tables exceed 64 KiB');
    memory.bytes(gpa, table.length).set(table);
    free = Math.ceil((gpa + table.length) / 64) * 64;
    return gpa;
  };
  const { ramSize, physicalAddressBits, mmioDevices, fixedSlots, viot } = options;
  const block = dsdtBlock(ramSize, physicalAddressBits, mmioDevices, fixedSlots);
  const dsdt = place(table('DSDT', 2, block));
  const tables = [fadt(dsdt), madt(options.cpus), mcfg(), waet()];
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

/** §5.2.9 with §4.1: no PM1 blocks, no SCI; sleep and reset through registers of one byte each. */
function fadt(dsdtGpa: number): Uint8Array {
  const body = new Uint8Array(acpi.FADT_LENGTH - HEADER.size);
  const view = new DataView(body.buffer);
  const at = (offset: number): number => offset - HEADER.size;
  const ioRegister = (offset: number, port: number): void => {
    const base = at(offset);
    body[base + acpi.GENERIC_ADDRESS.AddressSpaceID.offset] = acpi.ADDRESS_SPACE_SYSTEM_IO;
    body[base + acpi.GENERIC_ADDRESS.RegisterBitWidth.offset] = 8;
    body[base + acpi.GENERIC_ADDRESS.AccessSize.offset] = acpi.ACCESS_SIZE_BYTE;
    view.setUint32(base + acpi.GENERIC_ADDRESS.Address.offset, port, true);
  };
  view.setUint16(
    at(acpi.FADT_IAPC_BOOT_ARCH),
    acpi.IAPC_VGA_NOT_PRESENT | acpi.IAPC_PCIE_ASPM_CONTROLS,
    true,
  );
  view.setUint32(
    at(acpi.FADT_FLAGS),
    acpi.FADT_WBINVD |
      acpi.FADT_PROC_C1 |
      acpi.FADT_PWR_BUTTON |
      acpi.FADT_SLP_BUTTON |
      acpi.FADT_RESET_REG_SUP |
      acpi.FADT_HEADLESS |
      acpi.FADT_HW_REDUCED_ACPI,
    true,
  );
  ioRegister(acpi.FADT_RESET_REG, layout.RESET_PORT);
  body[at(acpi.FADT_RESET_VALUE)] = layout.RESET_VALUE;
  body[at(acpi.FADT_MINOR_VERSION)] = 5;
  view.setUint32(at(acpi.FADT_X_DSDT), dsdtGpa, true);
  ioRegister(acpi.FADT_SLEEP_CONTROL_REG, layout.SLEEP_CONTROL_PORT);
  ioRegister(acpi.FADT_SLEEP_STATUS_REG, layout.SLEEP_STATUS_PORT);
  writeAscii(body, at(acpi.FADT_HYPERVISOR_VENDOR_IDENTITY), OEM_TABLE_ID);
  return table('FACP', acpi.FADT_REVISION, body);
}

/** §5.2.12: a local APIC for each vCPU, one I/O APIC, and the ISA interrupts in use as edge. */
function madt(cpus: number): Uint8Array {
  const body = [...littleEndian(layout.LOCAL_APIC_ADDRESS, 4), ...littleEndian(0, 4)];
  for (let id = 0; id < cpus; id++) {
    const flags = littleEndian(acpi.LOCAL_APIC_ENABLED, 4);
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
  for (const gsi of [layout.COM1_GSI, layout.RTC_GSI, layout.GED_GSI]) {
    const flags = littleEndian(acpi.MPS_INTI_HIGH_EDGE, 2);
    body.push(acpi.MADT_INTERRUPT_SOURCE_OVERRIDE, 10, 0, gsi, ...littleEndian(gsi, 4), ...flags);
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
