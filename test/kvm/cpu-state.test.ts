/** CPUID, MSRs, entry states and RAM as the guest sees them. */
import t from 'tap';
import { KVM_EXIT_HLT } from '../../src/abi/kvm-constants.ts';
import type { CpuEntryState, SegmentState } from '../../src/boot/boot-layout.ts';
import { guestCpuid, hasFeature } from '../../src/kvm/cpuid.ts';
import { applyEntry, initializeVcpu } from '../../src/kvm/entry.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import { probeKvm } from '../../src/kvm/probe.ts';
import { BOOT_MSRS, MSR_IA32_TSC } from '../../src/kvm/registers.ts';
import { GiB, HIGH_RAM_BASE, LOW_RAM_LIMIT } from '../../src/memory/ram-layout.ts';
import { CODE, kvmMissing, STACK_TOP, TinyGuest } from './tiny-guest.ts';

const skip = kvmMissing();
const PAGE_TABLES = 0x1_0000;

/** A page table entry: present, writable. */
const PRESENT_WRITABLE = 3n;
const PAGE_SIZE_BIT = 1n << 7n;
const LARGE_PAGE = 2 ** 21;
const ENTRIES = 512;

const code64: SegmentState = {
  selector: 0x08,
  base: 0,
  limit: 0xffff_ffff,
  type: 11,
  present: 1,
  dpl: 0,
  db: 0,
  s: 1,
  l: 1,
  g: 1,
};
const data: SegmentState = { ...code64, selector: 0x10, type: 3, db: 1, l: 0 };
const tss: SegmentState = {
  ...code64,
  selector: 0x18,
  limit: 0x67,
  type: 11,
  s: 0,
  l: 0,
  g: 0,
};
const long64: CpuEntryState = {
  mode: 'long64',
  rip: CODE,
  rsp: STACK_TOP,
  rbx: 0x1234,
  rsi: 0x5678,
  cr0: 0x8000_0031, // PG, NE, ET, PE
  cr3: PAGE_TABLES,
  cr4: 0x20, // PAE
  efer: 0x500, // LME, LMA
  gdt: { base: 0x500, limit: 0x1f },
  cs: code64,
  ds: data,
  tr: tss,
};

/** Identity maps the first `gigabytes` GiB with 2 MiB pages. */
function mapIdentity(guest: TinyGuest, gigabytes: number): void {
  const put = (address: number, value: bigint): void => {
    guest.memory.writeU64(guest.memory.offset(address, 8), Number(value));
  };
  const pdpt = PAGE_TABLES + 0x1000;
  put(PAGE_TABLES, BigInt(pdpt) | PRESENT_WRITABLE);
  for (let g = 0; g < gigabytes; g++) {
    const directory = pdpt + 0x1000 * (g + 1);
    put(pdpt + g * 8, BigInt(directory) | PRESENT_WRITABLE);
    for (let i = 0; i < ENTRIES; i++) {
      const page = BigInt(g * GiB + i * LARGE_PAGE);
      put(directory + i * 8, page | PRESENT_WRITABLE | PAGE_SIZE_BIT);
    }
  }
}

/** CPUID leaf 1 in the guest. */
function leaf1(guest: TinyGuest, hide: readonly string[]): { rbx: bigint; rcx: bigint } {
  const options = { vcpu: 0, cpus: 4, tscDeadlineTimer: true, hide };
  guest.vcpu.setCpuid(guestCpuid(guest.kvm.supportedCpuid(), options));
  if (guest.vcpu.enter() !== 0) throw new Error('KVM_RUN failed');
  return guest.vcpu.getRegisters();
}

const CPUID_1 = [
  ...[0x66, 0xb8, 1, 0, 0, 0], // mov eax, 1
  ...[0x0f, 0xa2], // cpuid
  ...[0xe6, 0x80], // out 0x80, al
];

t.test('CPUID in the guest: APIC id, logical processors, hypervisor', { skip }, (t) => {
  using guest = new TinyGuest({ irqchip: true, code: CPUID_1 });
  const { rbx, rcx } = leaf1(guest, []);
  t.equal(rbx >> 24n, 0n, 'initial APIC id');
  t.equal((rbx >> 16n) & 0xffn, 4n, 'logical processors');
  t.equal((rcx >> 31n) & 1n, 1n, 'hypervisor');
  t.end();
});

const software = 'a software KVM shows the guest the features of the CPU below';
const skipFeatures = skip === false && probeKvm().kind === 'software' ? software : skip;

t.test('CPUID in the guest: hidden features', { skip: skipFeatures }, (t) => {
  for (const hide of [[], ['ssse3']]) {
    using guest = new TinyGuest({ irqchip: true, code: CPUID_1 });
    const supported = hasFeature(guest.kvm.supportedCpuid(), 'ssse3');
    const { rcx } = leaf1(guest, hide);
    t.equal((rcx >> 9n) & 1n, hide.length === 0 && supported ? 1n : 0n, 'SSSE3');
    t.equal((rcx >> 24n) & 1n, 1n, 'TSC deadline');
  }
  t.end();
});

t.test('every boot MSR is accepted and read back', { skip }, (t) => {
  using guest = new TinyGuest({ irqchip: true, code: [0xf4] });
  const options = { vcpu: 0, cpus: 1, tscDeadlineTimer: true };
  initializeVcpu(guest.vcpu, guestCpuid(guest.kvm.supportedCpuid(), options));
  const still = BOOT_MSRS.filter(({ index }) => index !== MSR_IA32_TSC);
  t.same(guest.vcpu.getMsrs(still.map(({ index }) => index)), still);
  t.end();
});

t.test('long64 entry; 5 GiB of RAM on both sides of the hole below 4 GiB', { skip }, (t) => {
  const top = HIGH_RAM_BASE + 2 * GiB - 8;
  const lowTop = LOW_RAM_LIMIT - 8;
  using guest = new TinyGuest({
    memory: 5 * GiB,
    code: [
      ...[0x48, 0xb8, ...address(top)], // mov rax, top
      ...[0x48, 0xc7, 0x00, 0x11, 0x22, 0x33, 0x44], // mov qword [rax], 0x44332211
      ...[0x48, 0xb8, ...address(lowTop)], // mov rax, lowTop
      ...[0x48, 0xc7, 0x00, 0x55, 0x66, 0x77, 0x08], // mov qword [rax], 0x08776655
      ...[0x48, 0xb8, ...address(HIGH_RAM_BASE)], // mov rax, 4 GiB
      ...[0x48, 0x8b, 0x08], // mov rcx, [rax]
      ...[0xf4], // hlt
    ],
  });
  const options = { vcpu: 0, cpus: 1, tscDeadlineTimer: false };
  guest.vcpu.setCpuid(guestCpuid(guest.kvm.supportedCpuid(), options));
  mapIdentity(guest, 6);
  const { memory } = guest;
  memory.writeU32(memory.offset(HIGH_RAM_BASE, 8), 0xcafe);
  applyEntry(guest.vcpu, long64);
  t.equal(guest.vcpu.enter(), 0);
  t.equal(exitName(guest.vcpu.exitReason), exitName(KVM_EXIT_HLT));
  t.equal(memory.readU32(memory.offset(top, 8)), 0x44332211);
  t.equal(memory.readU32(memory.offset(lowTop, 8)), 0x08776655);
  const { rcx, rbx, rsi } = guest.vcpu.getRegisters();
  t.equal(rcx, 0xcafen);
  t.equal(rbx, 0x1234n);
  t.equal(rsi, 0x5678n);
  t.equal(guest.vcpu.translate(BigInt(top)), top);
  t.equal(guest.vcpu.translate(7n << 30n), -1, 'not mapped');
  t.end();
});

function address(value: number): number[] {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return [...bytes];
}
