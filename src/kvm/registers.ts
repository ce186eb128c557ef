/** A vCPU's general, system and model-specific registers as plain objects. */
import { kvm_dtable, kvm_regs, kvm_segment, kvm_sregs } from '../abi/kvm.ts';
import {
  type AnyLayout,
  type Field,
  type FieldName,
  readField,
  writeField,
} from '../abi/struct.ts';
import { UsageError } from '../host/errors.ts';
import { OR_LAB } from './kvm.ts';
import type { Msr, Vcpu } from './vcpu.ts';

/** `struct kvm_regs`. */
export type Registers = Record<FieldName<typeof kvm_regs>, bigint>;

/** `struct kvm_segment`. */
export type Segment = Record<Exclude<FieldName<typeof kvm_segment>, 'padding'>, bigint>;

/** `struct kvm_dtable`. */
export interface DescriptorTable {
  base: bigint;
  limit: bigint;
}

export const SEGMENT_NAMES = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;
export const TABLE_NAMES = ['gdt', 'idt'] as const;
export const CONTROL_NAMES = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer', 'apic_base'] as const;

/** `struct kvm_sregs`, without its interrupt bitmap (only used without the in-kernel irqchip). */
export type SystemRegisters = Record<(typeof SEGMENT_NAMES)[number], Segment> &
  Record<(typeof TABLE_NAMES)[number], DescriptorTable> &
  Record<(typeof CONTROL_NAMES)[number], bigint>;

function names<L extends AnyLayout>(layout: L): FieldName<L>[] {
  return Object.keys(layout).filter((name) => name !== 'size') as FieldName<L>[];
}

/** The names of all general registers. */
export const REGISTER_NAMES: readonly FieldName<typeof kvm_regs>[] = names(kvm_regs);
const segmentFields = names(kvm_segment).filter((name) => name !== 'padding');

function readStruct(view: DataView, layout: AnyLayout, fields: readonly string[], base: number) {
  const table = layout as unknown as Record<string, Field>;
  return Object.fromEntries(
    fields.map((name) => [name, readField(view, table[name] as Field, base)]),
  );
}

/** Decodes a `struct kvm_regs`. */
export function decodeRegisters(view: DataView): Registers {
  return readStruct(view, kvm_regs, REGISTER_NAMES, 0) as Registers;
}

/** Decodes a `struct kvm_sregs`. */
export function decodeSystemRegisters(view: DataView): SystemRegisters {
  const segments = SEGMENT_NAMES.map((name) => [
    name,
    readStruct(view, kvm_segment, segmentFields, kvm_sregs[name].offset),
  ]);
  const tables = TABLE_NAMES.map((name) => [
    name,
    readStruct(view, kvm_dtable, ['base', 'limit'], kvm_sregs[name].offset),
  ]);
  return {
    ...Object.fromEntries([...segments, ...tables]),
    ...readStruct(view, kvm_sregs, CONTROL_NAMES, 0),
  } as SystemRegisters;
}

/** Overwrites the named general registers in a `struct kvm_regs`. */
export function encodeRegisters(view: DataView, registers: Partial<Registers>): void {
  for (const name of REGISTER_NAMES) {
    const value = registers[name];
    if (value !== undefined) writeField(view, kvm_regs[name], value);
  }
}

/** Overwrites the named system registers in a `struct kvm_sregs`. */
export function encodeSystemRegisters(view: DataView, registers: Partial<SystemRegisters>): void {
  for (const name of SEGMENT_NAMES) {
    const segment = registers[name];
    if (segment === undefined) continue;
    for (const field of segmentFields) {
      writeField(view, kvm_segment[field], segment[field], kvm_sregs[name].offset);
    }
  }
  for (const name of TABLE_NAMES) {
    const table = registers[name];
    if (table === undefined) continue;
    writeField(view, kvm_dtable.base, table.base, kvm_sregs[name].offset);
    writeField(view, kvm_dtable.limit, table.limit, kvm_sregs[name].offset);
  }
  for (const name of CONTROL_NAMES) {
    const value = registers[name];
    if (value !== undefined) writeField(view, kvm_sregs[name], value);
  }
}

export const MSR_IA32_TSC = 0x10;
export const MSR_IA32_SYSENTER_CS = 0x174;
export const MSR_IA32_SYSENTER_ESP = 0x175;
export const MSR_IA32_SYSENTER_EIP = 0x176;
export const MSR_IA32_MISC_ENABLE = 0x1a0;
export const MSR_MTRRdefType = 0x2ff;
export const MSR_STAR = 0xc000_0081;
export const MSR_LSTAR = 0xc000_0082;
export const MSR_CSTAR = 0xc000_0083;
export const MSR_SYSCALL_MASK = 0xc000_0084;
export const MSR_KERNEL_GS_BASE = 0xc000_0102;

/** Fast string operations. Intel SDM volume 4, IA32_MISC_ENABLE. */
const MISC_ENABLE_FAST_STRING = 1n << 0n;
/** MTRRs on, and write-back outside variable ranges. Intel SDM volume 3A §12.11.2.1. */
const MTRR_ENABLE = 1n << 11n;
const MTRR_TYPE_WRBACK = 6n;

/**
 * What firmware would have set before the kernel runs. Without MTRRdefType, Linux finds the MTRRs off, treats all memory as uncached and turns PAT off.
 * The TSC is set to 0 on every vCPU, by which KVM knows that they are to be synchronized.
 */
export const BOOT_MSRS: readonly Msr[] = [
  { index: MSR_IA32_TSC, data: 0n },
  { index: MSR_IA32_SYSENTER_CS, data: 0n },
  { index: MSR_IA32_SYSENTER_ESP, data: 0n },
  { index: MSR_IA32_SYSENTER_EIP, data: 0n },
  { index: MSR_STAR, data: 0n },
  { index: MSR_LSTAR, data: 0n },
  { index: MSR_CSTAR, data: 0n },
  { index: MSR_SYSCALL_MASK, data: 0n },
  { index: MSR_KERNEL_GS_BASE, data: 0n },
  { index: MSR_IA32_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING },
  { index: MSR_MTRRdefType, data: MTRR_ENABLE | MTRR_TYPE_WRBACK },
];

/** Writes all of `BOOT_MSRS`. @throws UsageError when KVM refuses one */
export function setBootMsrs(vcpu: Vcpu): void {
  const written = vcpu.setMsrs(BOOT_MSRS);
  const refused = BOOT_MSRS[written];
  if (refused !== undefined) {
    throw new UsageError(
      'E_KVM_MSR',
      `KVM refuses MSR 0x${refused.index.toString(16)}`,
      `update the host's kernel, ${OR_LAB}`,
    );
  }
}
