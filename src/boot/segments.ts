/** Flat segments, and the GDT in guest memory that describes them (Intel SDM vol. 3 §3.4.5). */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { GDT_GPA } from './boot-layout.ts';
import type { CpuEntryState, SegmentState } from './entry-state.ts';

const CR0_PE = 1;
const CR0_ET = 1 << 4;
const CODE_EXECUTE_READ_ACCESSED = 0xb;
const DATA_READ_WRITE_ACCESSED = 0x3;
const TSS_BUSY = 0xb;

/** 4 GiB of code, 32-bit or 64-bit. */
export function codeSegment(selector: number, bits: 32 | 64): SegmentState {
  const l = bits === 64 ? 1 : 0;
  const db = bits === 64 ? 0 : 1;
  return flat(selector, CODE_EXECUTE_READ_ACCESSED, db, l);
}

/** 4 GiB of writable data. */
export function dataSegment(selector: number): SegmentState {
  return flat(selector, DATA_READ_WRITE_ACCESSED, 1, 0);
}

/** The smallest TSS, at address 0: the kernel loads its own before it takes an interrupt. */
export function taskStateSegment(selector: number): SegmentState {
  return {
    selector,
    base: 0,
    limit: 0x67,
    type: TSS_BUSY,
    present: 1,
    dpl: 0,
    db: 0,
    s: 0,
    l: 0,
    g: 0,
  };
}

function flat(selector: number, type: number, db: 0 | 1, l: 0 | 1): SegmentState {
  return { selector, base: 0, limit: 0xffff_ffff, type, present: 1, dpl: 0, db, s: 1, l, g: 1 };
}

/**
 * Writes the GDT, every descriptor at its segment's selector, all others null.
 * @returns what goes into GDTR
 */
export function writeGdt(
  memory: GuestMemory,
  segments: readonly SegmentState[],
): { base: number; limit: number } {
  const highest = Math.max(...segments.map(({ selector }) => selector));
  // One entry more: in long mode a system descriptor takes two.
  const size = highest + 16;
  const gdt = memory.bytes(memory.offset(GDT_GPA, size), size).fill(0);
  const view = new DataView(gdt.buffer, gdt.byteOffset, gdt.byteLength);
  for (const { selector, base, limit, type, present, dpl, db, s, l, g } of segments) {
    const units = g === 1 ? Math.floor(limit / 4096) : limit;
    view.setUint32(selector, ((base & 0xffff) << 16) | (units & 0xffff), true);
    view.setUint32(
      selector + 4,
      (base & 0xff00_0000) |
        (g << 23) |
        (db << 22) |
        (l << 21) |
        (units & 0xf_0000) |
        (present << 15) |
        (dpl << 13) |
        (s << 12) |
        (type << 8) |
        ((base >>> 16) & 0xff),
      true,
    );
  }
  return { base: GDT_GPA, limit: size - 1 };
}

/** Protected mode without paging, as the 32-bit entries of Linux and PVH want it; writes the GDT. */
export function flatProtectedMode(
  memory: GuestMemory,
  selectors: Readonly<{ cs: number; ds: number; tr: number }>,
  registers: Readonly<{ rip: number; rbx?: number; rsi?: number }>,
): CpuEntryState {
  const cs = codeSegment(selectors.cs, 32);
  const ds = dataSegment(selectors.ds);
  const tr = taskStateSegment(selectors.tr);
  return {
    mode: 'protected32',
    rsp: 0,
    rbx: 0,
    rsi: 0,
    ...registers,
    cr0: CR0_PE | CR0_ET,
    cr3: 0,
    cr4: 0,
    efer: 0,
    gdt: writeGdt(memory, [cs, ds, tr]),
    cs,
    ds,
    tr,
  };
}
