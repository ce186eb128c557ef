/** Every way into a kernel on a real (or software) processor: what its first instructions find. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { KVM_EXIT_HLT } from '../../src/abi/kvm-constants.ts';
import { SETUP_HEADER_MAGIC, XEN_HVM_START_MAGIC_VALUE } from '../../src/abi/linux-boot.ts';
import { type BootProtocol, loadGuest } from '../../src/boot/boot.ts';
import { guestCpuid } from '../../src/kvm/cpuid.ts';
import { applyEntry } from '../../src/kvm/entry.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import { bzImage, elfKernel, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

const MiB = 2 ** 20;
const directory = t.testdir();

/** EDX becomes 0 in 64-bit mode, where 0x48 is a prefix, and -1 in 32-bit mode, where it is DEC EAX. */
const PROBE_MODE = [
  ...[0x31, 0xc0], // xor %eax, %eax
  ...[0x48, 0x90], // rex.W nop, or dec %eax; nop
  ...[0x89, 0xc2], // mov %eax, %edx
];
/** Loads the data segment from the GDT in memory. */
const RELOAD_DS = [
  ...[0xb8, 0x18, 0, 0, 0], // mov $__BOOT_DS, %eax
  ...[0x8e, 0xd8], // mov %eax, %ds
];
const LINUX_CODE = [
  ...PROBE_MODE,
  ...RELOAD_DS,
  ...[0x8b, 0x8e, 0x02, 0x02, 0, 0], // mov 0x202(%esi or %rsi), %ecx
  ...[0xf4], // hlt
];
const PVH_CODE = [
  ...PROBE_MODE,
  ...[0x8b, 0x0b], // mov (%ebx), %ecx
  ...[0xf4], // hlt
];

/** As memtest86+: code at both entry points, and no payload. */
function bare(xloadflags: number): Uint8Array {
  const values = { payload_offset: 0, payload_length: 0, pref_address: MiB, xloadflags };
  const image = bzImage(new Uint8Array(4096), values);
  for (const entry of [0, 0x200]) image.set(LINUX_CODE, 4 * 512 + entry);
  return image;
}

const elf = (bits: 32 | 64, code: readonly number[], pvhEntry: number | null): Uint8Array =>
  elfKernel({ bits, segments: [{ paddr: KERNEL_GPA, bytes: Uint8Array.from(code) }], pvhEntry });

const IN_32_BITS = 0xffff_ffffn;
const cases: [string, Uint8Array, BootProtocol, bigint, number][] = [
  ['linux64, bzImage', bare(1), 'auto', 0n, SETUP_HEADER_MAGIC],
  ['linux64, ELF', elf(64, LINUX_CODE, null), 'auto', 0n, SETUP_HEADER_MAGIC],
  ['linux32, bzImage', bare(0), 'auto', IN_32_BITS, SETUP_HEADER_MAGIC],
  ['linux32, bzImage with both', bare(1), 'linux32', IN_32_BITS, SETUP_HEADER_MAGIC],
  ['linux32, ELF', elf(32, LINUX_CODE, null), 'auto', IN_32_BITS, SETUP_HEADER_MAGIC],
  ['PVH, ELF64', elf(64, PVH_CODE, KERNEL_GPA), 'auto', IN_32_BITS, XEN_HVM_START_MAGIC_VALUE],
  ['PVH, ELF32', elf(32, PVH_CODE, KERNEL_GPA), 'auto', IN_32_BITS, XEN_HVM_START_MAGIC_VALUE],
];

for (const [name, image, protocol, mode, magic] of cases) {
  t.test(name, { skip: kvmMissing() }, async (t) => {
    using guest = new TinyGuest({ memory: 32 * MiB, code: [] });
    const { vcpu, memory } = guest;
    const options = { vcpu: 0, cpus: 1, tscDeadlineTimer: false };
    vcpu.setCpuid(guestCpuid(guest.kvm.supportedCpuid(), options));
    const kernel = join(directory, 'kernel');
    writeFileSync(kernel, image);
    const { state } = await loadGuest({ memory, kernel, commandLine: '', cpus: 1, protocol });
    applyEntry(vcpu, state);
    t.equal(vcpu.enter(), 0);
    t.equal(exitName(vcpu.exitReason), exitName(KVM_EXIT_HLT));
    const { rcx, rdx } = vcpu.getRegisters();
    t.equal(rcx & 0xffff_ffffn, BigInt(magic), 'the protocol passes the magic on');
    t.equal(rdx & 0xffff_ffffn, mode, 'mode of the processor');
  });
}
