/** ACPI resource descriptors (ACPI 6.5 §6.4) and the template that holds them. */
import { type Aml, buffer, littleEndian } from './aml.ts';

/** Resource type of an address space descriptor, §6.4.3.5. */
const MEMORY_RANGE = 0;
const IO_RANGE = 1;
const BUS_NUMBER_RANGE = 2;
/** General flags, §6.4.3.5: produced for the devices below, both ends fixed, decoded positively. */
const PRODUCER_MIN_MAX_FIXED = 0b1100;
/** Memory flags, §6.4.3.5.5.1. */
const READ_WRITE = 1;
const PREFETCHABLE = 0b110;
/** I/O flags, §6.4.3.5.5.2: ISA and non-ISA ranges. */
const ENTIRE_RANGE = 0b11;
/** Interrupt vector flags, §6.4.3.6. */
const CONSUMER_EDGE_HIGH_EXCLUSIVE = 0b0011;
const CONSUMER_LEVEL_HIGH_SHARED = 0b1001;

/** A range of addresses or numbers. */
export interface Range {
  readonly base: number;
  readonly size: number;
}

/** Buffer with the descriptors and an end tag (§6.4.2.9; checksum 0 means unchecked). */
export function resourceTemplate(...descriptors: readonly Aml[]): Aml {
  return buffer([...descriptors.flat(), 0x79, 0]);
}

/** §6.4.2.5 I/O Port Descriptor, 16-bit decode. */
export function ioPorts({ base, size }: Range): Aml {
  return [0x47, 1, ...littleEndian(base, 2), ...littleEndian(base, 2), 1, size];
}

/** §6.4.3.4 32-Bit Fixed Memory Range Descriptor, writable. */
export function memory32Fixed({ base, size }: Range): Aml {
  return [0x86, 9, 0, READ_WRITE, ...littleEndian(base, 4), ...littleEndian(size, 4)];
}

/** §6.4.3.6 Extended Interrupt Descriptor: one GSI, edge triggered, active high, not shared. */
export function edgeInterrupt(gsi: number): Aml {
  return interrupt(gsi, CONSUMER_EDGE_HIGH_EXCLUSIVE);
}

/** The same, level triggered, active high, shared. */
export function levelInterrupt(gsi: number): Aml {
  return interrupt(gsi, CONSUMER_LEVEL_HIGH_SHARED);
}

function interrupt(gsi: number, flags: number): Aml {
  return [0x89, 6, 0, flags, 1, ...littleEndian(gsi, 4)];
}

/** §6.4.3.5.3 Word Address Space Descriptor of bus numbers. */
export function busNumbers(range: Range): Aml {
  return addressSpace(0x88, 2, BUS_NUMBER_RANGE, 0, range);
}

/** §6.4.3.5.3 Word Address Space Descriptor of I/O ports. */
export function ioWindow(range: Range): Aml {
  return addressSpace(0x88, 2, IO_RANGE, ENTIRE_RANGE, range);
}

/** §6.4.3.5.2 DWord Address Space Descriptor of memory that is not prefetchable. */
export function memoryWindow32(range: Range): Aml {
  return addressSpace(0x87, 4, MEMORY_RANGE, READ_WRITE, range);
}

/** §6.4.3.5.1 QWord Address Space Descriptor of prefetchable memory. */
export function memoryWindow64(range: Range): Aml {
  return addressSpace(0x8a, 8, MEMORY_RANGE, PREFETCHABLE | READ_WRITE, range);
}

function addressSpace(tag: number, width: number, type: number, flags: number, range: Range): Aml {
  const granularity = 0;
  const translation = 0;
  const last = range.base + range.size - 1;
  const numbers = [granularity, range.base, last, translation, range.size];
  return [
    tag,
    ...littleEndian(3 + 5 * width, 2),
    type,
    PRODUCER_MIN_MAX_FIXED,
    flags,
    ...numbers.flatMap((value) => littleEndian(value, width)),
  ];
}
