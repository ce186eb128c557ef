/** Sets a new vCPU to the state in which firmware starts a kernel. */
import { kvm_lapic_state } from '../abi/kvm.ts';
import { KVM_SET_LAPIC } from '../abi/kvm-ioctl.ts';
import { type CpuidEntry, hasFeature } from './cpuid.ts';
import { type Segment, setBootMsrs } from './registers.ts';
import type { Vcpu } from './vcpu.ts';

/** A segment register in numbers, with the names and units of struct kvm_segment. */
export type EntrySegment = Readonly<Record<Exclude<keyof Segment, 'avl' | 'unusable'>, number>>;

/** The registers that a boot protocol wants; what is not named is 0. */
export interface EntryState {
  readonly rip: number;
  readonly rsp: number;
  readonly rbx: number;
  readonly rsi: number;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
  /** The GDT is in guest memory already. `limit` is its length less 1. */
  readonly gdt: { readonly base: number; readonly limit: number };
  readonly cs: EntrySegment;
  /** For DS, ES, FS, GS and SS. */
  readonly ds: EntrySegment;
  readonly tr: EntrySegment;
}

/** Local vector table, Intel SDM volume 3A §11.5.1: offsets and delivery modes (bits 8 to 10). */
const APIC_LVT0 = 0x350;
const APIC_LVT1 = 0x360;
const APIC_MODE_NMI = 4 << 8;
const APIC_MODE_EXTINT = 7 << 8;
const APIC_MODE_MASK = 7 << 8;
const APIC_LVT_MASKED = 1 << 16;

/** Intel SDM volume 1 §13.3. */
const XCR0_X87_SSE_AVX = 7;

/** Bit 1 of RFLAGS is always set. */
const RFLAGS_RESERVED = 2n;

/**
 * What every vCPU needs, before it runs for the first time: CPUID, MSRs, and the local APIC's pins
 * as firmware leaves them (LINT0 to the 8259s, LINT1 for NMI). Application processors then wait
 * for the guest's INIT and SIPI, which the in-kernel local APIC serves.
 */
export function initializeVcpu(vcpu: Vcpu, cpuid: readonly CpuidEntry[]): void {
  vcpu.setCpuid(cpuid);
  enableVectorState(vcpu, cpuid);
  setBootMsrs(vcpu);
  const lapic = vcpu.getLapic();
  setDeliveryMode(lapic.view, APIC_LVT0, APIC_MODE_EXTINT);
  setDeliveryMode(lapic.view, APIC_LVT1, APIC_MODE_NMI);
  vcpu.ioctl('KVM_SET_LAPIC', KVM_SET_LAPIC, lapic);
}

/**
 * Linux sets XCR0 itself, and then expects leaf 0xd to have the size of what it set; KVM knows it from
 * the intercepted XSETBV. Limit: QEMU's emulation of SVM, which the lab uses, does not intercept
 * it, and Linux there would find the sizes at odds and turn XSAVE off. So KVM gets it beforehand.
 */
function enableVectorState(vcpu: Vcpu, cpuid: readonly CpuidEntry[]): void {
  const supported = cpuid.find((entry) => entry.function === 0xd && entry.index === 0)?.eax ?? 0;
  const wanted = supported & XCR0_X87_SSE_AVX;
  // What KVM refuses, the guest is left to do: this only spares it the trouble above.
  if (hasFeature(cpuid, 'xsave') && wanted !== 0) vcpu.setXcr0(wanted);
}

function setDeliveryMode(registers: DataView, offset: number, mode: number): void {
  const at = kvm_lapic_state.regs.offset + offset;
  const entry = registers.getUint32(at, true) & ~(APIC_MODE_MASK | APIC_LVT_MASKED);
  registers.setUint32(at, (entry | mode) >>> 0, true);
}

/** Puts a vCPU at a boot protocol's entry point. */
export function applyEntry(vcpu: Vcpu, entry: EntryState): void {
  const data = segment(entry.ds);
  vcpu.setSystemRegisters({
    cs: segment(entry.cs),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: segment(entry.tr),
    gdt: { base: BigInt(entry.gdt.base), limit: BigInt(entry.gdt.limit) },
    idt: { base: 0n, limit: 0n },
    cr0: BigInt(entry.cr0),
    cr3: BigInt(entry.cr3),
    cr4: BigInt(entry.cr4),
    efer: BigInt(entry.efer),
  });
  vcpu.setRegisters({
    rax: 0n,
    rbx: BigInt(entry.rbx),
    rcx: 0n,
    rdx: 0n,
    rsi: BigInt(entry.rsi),
    rdi: 0n,
    rsp: BigInt(entry.rsp),
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: BigInt(entry.rip),
    rflags: RFLAGS_RESERVED,
  });
  vcpu.resetFpu();
}

/**
 * Puts a vCPU that has not run yet at an address in real mode, as firmware does on waking up (ACPI 6.5 §16.3.1):
 * CS is the address divided by 16, IP the rest.
 */
export function enterRealMode(vcpu: Vcpu, address: number): void {
  const selector = BigInt(address >>> 4);
  vcpu.setSystemRegisters({
    cs: {
      ...DATA,
      type: TYPE_EXECUTE_READ_ACCESSED,
      selector,
      base: selector * 16n,
      limit: 0xffffn,
      db: 0n,
      g: 0n,
    },
  });
  vcpu.setRegisters({ rip: BigInt(address & 0xf), rflags: RFLAGS_RESERVED });
}

function segment(state: EntrySegment): Segment {
  return {
    base: BigInt(state.base),
    limit: BigInt(state.limit),
    selector: BigInt(state.selector),
    type: BigInt(state.type),
    present: BigInt(state.present),
    dpl: BigInt(state.dpl),
    db: BigInt(state.db),
    s: BigInt(state.s),
    l: BigInt(state.l),
    g: BigInt(state.g),
    avl: 0n,
    unusable: state.present === 1 ? 0n : 1n,
  };
}

/** Types of code and data segments, Intel SDM volume 3A §3.4.5.1. */
const TYPE_READ_WRITE_ACCESSED = 3n;
const TYPE_EXECUTE_READ_ACCESSED = 11n;
const CODE_SELECTOR = 0x08n;
const DATA_SELECTOR = 0x10n;
/** Protection enable, extension type, numeric error. */
const CR0_PE_ET_NE = 0x31n;

const DATA: Segment = {
  base: 0n,
  limit: 0xffff_ffffn,
  selector: DATA_SELECTOR,
  type: TYPE_READ_WRITE_ACCESSED,
  present: 1n,
  dpl: 0n,
  db: 1n,
  s: 1n,
  l: 0n,
  g: 1n,
  avl: 0n,
  unusable: 0n,
};

/**
 * Puts a vCPU at an address in 32-bit protected mode with flat segments, no descriptor tables and
 * interrupts off, for guests of a few bytes. The IDT is empty, so any
 * exception or interrupt is a triple fault.
 * @param rip guest physical address of the code
 * @param rsp first address above the stack
 */
export function enterFlatMode(vcpu: Vcpu, rip: number, rsp: number): void {
  vcpu.setSystemRegisters({
    cs: { ...DATA, selector: CODE_SELECTOR, type: TYPE_EXECUTE_READ_ACCESSED },
    ds: DATA,
    es: DATA,
    fs: DATA,
    gs: DATA,
    ss: DATA,
    gdt: { base: 0n, limit: 0n },
    idt: { base: 0n, limit: 0n },
    cr0: CR0_PE_ET_NE,
  });
  vcpu.setRegisters({ rip: BigInt(rip), rsp: BigInt(rsp), rflags: RFLAGS_RESERVED });
}
