/** The registers that a boot protocol wants the first vCPU to start with, as plain data. */

/** One segment register, with the names and units of struct kvm_segment. */
export interface SegmentState {
  readonly selector: number;
  readonly base: number;
  /** In bytes, regardless of `g`. */
  readonly limit: number;
  readonly type: number;
  readonly present: 0 | 1;
  readonly dpl: number;
  readonly db: 0 | 1;
  /** 1 for code and data, 0 for system segments. */
  readonly s: 0 | 1;
  readonly l: 0 | 1;
  readonly g: 0 | 1;
}

/**
 * All that differs from a vCPU's state at reset. Registers that are not named are 0, rflags is
 * 2 (interrupts off), the IDT is empty.
 */
export interface CpuEntryState {
  readonly mode: 'protected32' | 'long64';
  readonly rip: number;
  readonly rsp: number;
  readonly rbx: number;
  readonly rsi: number;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
  /** The GDT lies in guest memory already. `limit` is its length less 1. */
  readonly gdt: { readonly base: number; readonly limit: number };
  readonly cs: SegmentState;
  /** For DS, ES, FS, GS and SS. */
  readonly ds: SegmentState;
  readonly tr: SegmentState;
}
