/**
 * Structs of `linux/kvm.h` and `asm/kvm.h` (x86-64). Members of a union are placed at the union's
 * own offset, so every offset below counts from the start of the outermost struct. A test compares
 * each of them with a C compiler's.
 */
import { type Field, type FieldShape, type Layout, struct } from './struct.ts';

/** A union's member: like `struct`, with offsets that start at `base`; `size` is its own size. */
function member<const T extends Record<string, FieldShape>>(base: number, fields: T): Layout<T> {
  const { size, ...inner } = struct(fields) as { size: number } & Record<string, Field>;
  const moved = Object.entries(inner).map(([name, field]) => [
    name,
    { offset: base + field.offset, length: field.length },
  ]);
  return { ...Object.fromEntries(moved), size } as Layout<T>;
}

/** What KVM_RUN and its caller share; `exit` is the union of all exit reasons. */
export const kvm_run = struct({
  request_interrupt_window: 1,
  immediate_exit: 1,
  padding1: [1, 6],
  exit_reason: 4,
  ready_for_interrupt_injection: 1,
  if_flag: 1,
  flags: 2,
  cr8: 8,
  apic_base: 8,
  exit: [8, 32],
  kvm_valid_regs: 8,
  kvm_dirty_regs: 8,
  s: [8, 256],
});
const EXIT = kvm_run.exit.offset;
export const kvm_run_hw = member(EXIT, { hardware_exit_reason: 8 });
export const kvm_run_fail_entry = member(EXIT, { hardware_entry_failure_reason: 8, cpu: 4 });
export const kvm_run_ex = member(EXIT, { exception: 4, error_code: 4 });
export const kvm_run_io = member(EXIT, {
  direction: 1,
  size_: 1,
  port: 2,
  count: 4,
  data_offset: 8,
});
export const kvm_run_mmio = member(EXIT, { phys_addr: 8, data: [1, 8], len: 4, is_write: 1 });
export const kvm_run_internal = member(EXIT, { suberror: 4, ndata: 4, data: [8, 16] });
export const kvm_run_emulation_failure = member(EXIT, {
  suberror: 4,
  ndata: 4,
  flags: 8,
  insn_size: 1,
  insn_bytes: [1, 15],
});
export const kvm_run_system_event = member(EXIT, { type: 4, ndata: 4, data: [8, 16] });

export const kvm_userspace_memory_region = struct({
  slot: 4,
  flags: 4,
  guest_phys_addr: 8,
  memory_size: 8,
  userspace_addr: 8,
});

export const kvm_regs = struct({
  rax: 8,
  rbx: 8,
  rcx: 8,
  rdx: 8,
  rsi: 8,
  rdi: 8,
  rsp: 8,
  rbp: 8,
  r8: 8,
  r9: 8,
  r10: 8,
  r11: 8,
  r12: 8,
  r13: 8,
  r14: 8,
  r15: 8,
  rip: 8,
  rflags: 8,
});

export const kvm_segment = struct({
  base: 8,
  limit: 4,
  selector: 2,
  type: 1,
  present: 1,
  dpl: 1,
  db: 1,
  s: 1,
  l: 1,
  g: 1,
  avl: 1,
  unusable: 1,
  padding: 1,
});
export const kvm_dtable = struct({ base: 8, limit: 2, padding: [2, 3] });

const SEGMENT = [8, kvm_segment.size / 8] as const;
const DTABLE = [8, kvm_dtable.size / 8] as const;
export const kvm_sregs = struct({
  cs: SEGMENT,
  ds: SEGMENT,
  es: SEGMENT,
  fs: SEGMENT,
  gs: SEGMENT,
  ss: SEGMENT,
  tr: SEGMENT,
  ldt: SEGMENT,
  gdt: DTABLE,
  idt: DTABLE,
  cr0: 8,
  cr2: 8,
  cr3: 8,
  cr4: 8,
  cr8: 8,
  efer: 8,
  apic_base: 8,
  interrupt_bitmap: [8, 4],
});

export const kvm_fpu = struct({
  fpr: [1, 128],
  fcw: 2,
  fsw: 2,
  ftwx: 1,
  pad1: 1,
  last_opcode: 2,
  last_ip: 8,
  last_dp: 8,
  xmm: [1, 256],
  mxcsr: 4,
  pad2: 4,
});

export const kvm_lapic_state = struct({ regs: [1, 0x400] });
export const kvm_mp_state = struct({ mp_state: 4 });
export const kvm_translation = struct({
  linear_address: 8,
  physical_address: 8,
  valid: 1,
  writeable: 1,
  usermode: 1,
  pad: [1, 5],
});

export const kvm_xcr = struct({ xcr: 4, reserved: 4, value: 8 });
export const kvm_xcrs = struct({
  nr_xcrs: 4,
  flags: 4,
  xcrs: [8, (16 * kvm_xcr.size) / 8],
  padding: [8, 16],
});

/** The header; `kvm_msr_entry` elements follow it. */
export const kvm_msrs = struct({ nmsrs: 4, pad: 4 });
export const kvm_msr_entry = struct({ index: 4, reserved: 4, data: 8 });
/** The header; 32-bit MSR numbers follow it. */
export const kvm_msr_list = struct({ nmsrs: 4 });

/** The header; `kvm_cpuid_entry2` elements follow it. */
export const kvm_cpuid2 = struct({ nent: 4, padding: 4 });
export const kvm_cpuid_entry2 = struct({
  function: 4,
  index: 4,
  flags: 4,
  eax: 4,
  ebx: 4,
  ecx: 4,
  edx: 4,
  padding: [4, 3],
});

export const kvm_pit_config = struct({ flags: 4, pad: [4, 15] });
export const kvm_irq_level = struct({ irq: 4, level: 4 });
export const kvm_irqfd = struct({ fd: 4, gsi: 4, flags: 4, resamplefd: 4, pad: [1, 16] });
export const kvm_ioeventfd = struct({
  datamatch: 8,
  addr: 8,
  len: 4,
  fd: 4,
  flags: 4,
  pad: [1, 36],
});

/** The header; `kvm_irq_routing_entry` elements follow it. */
export const kvm_irq_routing = struct({ nr: 4, flags: 4 });
export const kvm_irq_routing_entry = struct({ gsi: 4, type: 4, flags: 4, pad: 4, u: [4, 8] });
const ROUTE = kvm_irq_routing_entry.u.offset;
export const kvm_irq_routing_irqchip = member(ROUTE, { irqchip: 4, pin: 4 });
export const kvm_irq_routing_msi = member(ROUTE, {
  address_lo: 4,
  address_hi: 4,
  data: 4,
  devid: 4,
});

export const kvm_clock_data = struct({
  clock: 8,
  flags: 4,
  pad0: 4,
  realtime: 8,
  host_tsc: 8,
  pad: [4, 4],
});

/** What the file of KVM_GET_STATS_FD begins with (KVM API 4.133). */
export const kvm_stats_header = struct({
  flags: 4,
  name_size: 4,
  num_desc: 4,
  id_offset: 4,
  desc_offset: 4,
  data_offset: 4,
});
/** `name_size` bytes of the name follow. */
export const kvm_stats_desc = struct({
  flags: 4,
  exponent: 2,
  size_: 2,
  offset: 4,
  bucket_size: 4,
});
