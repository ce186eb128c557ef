/** 32-bit protected mode with flat segments and no descriptor tables, for guests of a few bytes. */
import type { Segment } from './registers.ts';
import type { Vcpu } from './vcpu.ts';

/** Types of code and data segments, Intel SDM volume 3A §3.4.5.1. */
const TYPE_READ_WRITE_ACCESSED = 3n;
const TYPE_EXECUTE_READ_ACCESSED = 11n;
const CODE_SELECTOR = 0x08n;
const DATA_SELECTOR = 0x10n;
/** Protection enable, extension type, numeric error. */
const CR0_PE_ET_NE = 0x31n;
/** Bit 1 of RFLAGS is always set. */
const RFLAGS_RESERVED = 2n;

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
 * Puts a vCPU at an address in flat protected mode, with interrupts off. The IDT is empty, so any
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
