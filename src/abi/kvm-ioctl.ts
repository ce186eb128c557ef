/** ioctl requests of /dev/kvm, of VMs and of vCPUs, and the flags in their structs (`linux/kvm.h`). */

import * as k from './kvm.ts';
import { _IO, _IOR, _IOW, _IOWR } from './struct.ts';

const KVMIO = 0xae;

/** On /dev/kvm. */
export const KVM_GET_API_VERSION: number = _IO(KVMIO, 0x00);
export const KVM_CREATE_VM: number = _IO(KVMIO, 0x01);
export const KVM_GET_MSR_INDEX_LIST: number = _IOWR(KVMIO, 0x02, k.kvm_msr_list.size);
export const KVM_CHECK_EXTENSION: number = _IO(KVMIO, 0x03);
export const KVM_GET_VCPU_MMAP_SIZE: number = _IO(KVMIO, 0x04);
export const KVM_GET_SUPPORTED_CPUID: number = _IOWR(KVMIO, 0x05, k.kvm_cpuid2.size);

/** On a VM. */
export const KVM_CREATE_VCPU: number = _IO(KVMIO, 0x41);
export const KVM_SET_USER_MEMORY_REGION: number = _IOW(
  KVMIO,
  0x46,
  k.kvm_userspace_memory_region.size,
);
export const KVM_SET_TSS_ADDR: number = _IO(KVMIO, 0x47);
export const KVM_SET_IDENTITY_MAP_ADDR: number = _IOW(KVMIO, 0x48, 8);
export const KVM_CREATE_IRQCHIP: number = _IO(KVMIO, 0x60);
export const KVM_IRQ_LINE: number = _IOW(KVMIO, 0x61, k.kvm_irq_level.size);
export const KVM_SET_GSI_ROUTING: number = _IOW(KVMIO, 0x6a, k.kvm_irq_routing.size);
export const KVM_IRQFD: number = _IOW(KVMIO, 0x76, k.kvm_irqfd.size);
export const KVM_CREATE_PIT2: number = _IOW(KVMIO, 0x77, k.kvm_pit_config.size);
export const KVM_IOEVENTFD: number = _IOW(KVMIO, 0x79, k.kvm_ioeventfd.size);
export const KVM_SET_CLOCK: number = _IOW(KVMIO, 0x7b, k.kvm_clock_data.size);
export const KVM_GET_CLOCK: number = _IOR(KVMIO, 0x7c, k.kvm_clock_data.size);

/** `kvm_clock_data.flags`: which of its other fields hold. */
export const KVM_CLOCK_REALTIME = 1 << 2;
export const KVM_CLOCK_HOST_TSC = 1 << 3;

/** On a vCPU. */
export const KVM_RUN: number = _IO(KVMIO, 0x80);
export const KVM_GET_REGS: number = _IOR(KVMIO, 0x81, k.kvm_regs.size);
export const KVM_SET_REGS: number = _IOW(KVMIO, 0x82, k.kvm_regs.size);
export const KVM_GET_SREGS: number = _IOR(KVMIO, 0x83, k.kvm_sregs.size);
export const KVM_SET_SREGS: number = _IOW(KVMIO, 0x84, k.kvm_sregs.size);
export const KVM_TRANSLATE: number = _IOWR(KVMIO, 0x85, k.kvm_translation.size);
export const KVM_GET_MSRS: number = _IOWR(KVMIO, 0x88, k.kvm_msrs.size);
export const KVM_SET_MSRS: number = _IOW(KVMIO, 0x89, k.kvm_msrs.size);
export const KVM_SET_FPU: number = _IOW(KVMIO, 0x8d, k.kvm_fpu.size);
export const KVM_GET_LAPIC: number = _IOR(KVMIO, 0x8e, k.kvm_lapic_state.size);
export const KVM_SET_LAPIC: number = _IOW(KVMIO, 0x8f, k.kvm_lapic_state.size);
export const KVM_SET_CPUID2: number = _IOW(KVMIO, 0x90, k.kvm_cpuid2.size);
export const KVM_GET_MP_STATE: number = _IOR(KVMIO, 0x98, k.kvm_mp_state.size);
export const KVM_SET_MP_STATE: number = _IOW(KVMIO, 0x99, k.kvm_mp_state.size);
export const KVM_SET_XCRS: number = _IOW(KVMIO, 0xa7, k.kvm_xcrs.size);
export const KVM_KVMCLOCK_CTRL: number = _IO(KVMIO, 0xad);
export const KVM_GET_STATS_FD: number = _IO(KVMIO, 0xce);

/** The only KVM_GET_API_VERSION that ever was. KVM API 4.1. */
export const KVM_API_VERSION = 12;

export const KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0;
export const KVM_IOEVENTFD_FLAG_PIO = 1 << 1;
export const KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2;
export const KVM_IRQFD_FLAG_DEASSIGN = 1 << 0;
export const KVM_IRQFD_FLAG_RESAMPLE = 1 << 1;
export const KVM_IRQ_ROUTING_IRQCHIP = 1;
export const KVM_IRQ_ROUTING_MSI = 2;
export const KVM_IRQCHIP_PIC_MASTER = 0;
export const KVM_IRQCHIP_PIC_SLAVE = 1;
export const KVM_IRQCHIP_IOAPIC = 2;
export const KVM_IOAPIC_NUM_PINS = 24;
export const KVM_PIT_SPEAKER_DUMMY = 1;
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0;
export const KVM_MP_STATE_UNINITIALIZED = 1;
export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0;
export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;

/** In `kvm_stats_desc.flags`. */
export const KVM_STATS_TYPE_MASK = 0xf;
/** It only grows. */
export const KVM_STATS_TYPE_CUMULATIVE = 0;

/** `linux/kvm_para.h` and `asm/kvm_para.h`: the paravirtual CPUID leaves. */
export const KVM_CPUID_SIGNATURE = 0x4000_0000;
export const KVM_CPUID_FEATURES = 0x4000_0001;
