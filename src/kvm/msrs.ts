/** The model-specific registers that firmware would have set before the kernel runs. */
import { UsageError } from '../host/errors.ts';
import type { Msr, Vcpu } from './vcpu.ts';

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
/** MTRRs on, and write-back where no variable range says otherwise. Intel SDM volume 3A §12.11.2.1. */
const MTRR_ENABLE = 1n << 11n;
const MTRR_TYPE_WRBACK = 6n;

/**
 * Without MTRRdefType, Linux finds the MTRRs off, takes all memory for uncached and turns PAT off.
 * The TSC is set to 0 on every vCPU, which KVM takes as the wish to keep them in step.
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
      `KVM refuses MSR 0x${refused.index.toString(16)}; update the host's kernel, or use --lab`,
    );
  }
}
