/** /dev/kvm: whether this host can run virtual machines, and what its KVM offers. */

import { EINTR } from '../abi/errno.ts';
import { kvm_msr_list } from '../abi/kvm.ts';
import * as cap from '../abi/kvm-constants.ts';
import * as request from '../abi/kvm-ioctl.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { type CpuidEntry, CpuidTable } from './cpuid.ts';
import { capabilityName } from './exit-names.ts';

const DEVICE = '/dev/kvm';
const MSR_LIST_MAXIMUM = 1024;

/** What nodevmm cannot do without. Every x86-64 KVM since Linux 4.13 has them. */
export const REQUIRED_CAPABILITIES: readonly number[] = [
  cap.KVM_CAP_IRQCHIP,
  cap.KVM_CAP_USER_MEMORY,
  cap.KVM_CAP_EXT_CPUID,
  cap.KVM_CAP_MP_STATE,
  cap.KVM_CAP_IRQ_ROUTING,
  cap.KVM_CAP_IRQFD,
  cap.KVM_CAP_PIT2,
  cap.KVM_CAP_IOEVENTFD,
  cap.KVM_CAP_SET_TSS_ADDR,
  cap.KVM_CAP_SET_IDENTITY_MAP_ADDR,
  cap.KVM_CAP_VCPU_EVENTS,
  cap.KVM_CAP_IOEVENTFD_ANY_LENGTH,
  cap.KVM_CAP_IMMEDIATE_EXIT,
];

/** The way out where this host's KVM is of no use. */
export const OR_LAB = "or use the lab (--lab, or lab: 'auto' in code)";

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: `load the module (modprobe kvm_intel or kvm_amd) and enable virtualization in the firmware, ${OR_LAB}`,
  ENXIO: `load the module (modprobe kvm_intel or kvm_amd), ${OR_LAB}`,
  EACCES: `join the group kvm (sudo usermod -aG kvm $USER, then log in again), ${OR_LAB}`,
  EPERM: `let this container use /dev/kvm (--device /dev/kvm), ${OR_LAB}`,
};

/** The open /dev/kvm. */
export class Kvm extends Closeable {
  readonly #device: Fd;
  /** Bytes of the `kvm_run` mapping of every vCPU. */
  readonly runSize: number;

  private constructor(device: Fd) {
    super();
    this.#device = device;
    this.runSize = sys.check(
      sys.ioctl(device.fd, request.KVM_GET_VCPU_MMAP_SIZE, 0),
      'KVM_GET_VCPU_MMAP_SIZE',
      DEVICE,
    );
  }

  /**
   * Opens /dev/kvm and checks that it has all that nodevmm needs.
   * @throws HostError when it cannot be opened, UsageError when it is too old
   */
  static open(): Kvm {
    const fd = sys.open(DEVICE, sys.O_RDWR | sys.O_CLOEXEC);
    if (fd < 0)
      sys.check(fd, 'open', DEVICE, REMEDIES[sys.errnoName(-fd)] ?? `check its driver, ${OR_LAB}`);
    const device = new Fd(fd);
    try {
      const version = sys.ioctl(fd, request.KVM_GET_API_VERSION, 0);
      if (version !== request.KVM_API_VERSION) {
        throw new UsageError(
          'E_KVM_VERSION',
          `${DEVICE} has API version ${version}, not ${request.KVM_API_VERSION}`,
          `update the kernel, ${OR_LAB}`,
        );
      }
      const kvm = new Kvm(device);
      const missing = REQUIRED_CAPABILITIES.filter((capability) => !kvm.check(capability));
      if (missing.length > 0) {
        throw new UsageError(
          'E_KVM_CAPABILITY',
          `${DEVICE} lacks ${missing.map(capabilityName).join(', ')}`,
          `update the kernel, ${OR_LAB}`,
        );
      }
      return kvm;
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** A capability's value: 0 when it is missing, 1 or a number that belongs to it. KVM API 4.4. */
  check(capability: number): number {
    return Math.max(0, sys.ioctl(this.#device.fd, request.KVM_CHECK_EXTENSION, capability));
  }

  /** Most vCPUs of one VM. */
  get maxVcpus(): number {
    return this.check(cap.KVM_CAP_MAX_VCPUS) || this.check(cap.KVM_CAP_NR_VCPUS) || 4;
  }

  /** The file descriptor of a new VM; `Vm` owns it. @throws HostError */
  createVmFd(): number {
    for (;;) {
      const fd = sys.ioctl(this.#device.fd, request.KVM_CREATE_VM, 0);
      // The kernel gives up creating a VM when a signal comes in between.
      if (fd === -EINTR) continue;
      return sys.check(fd, 'KVM_CREATE_VM', DEVICE, 'another hypervisor may be using the CPU');
    }
  }

  /** All CPUID leaves that this host's KVM can give a guest. KVM API 4.46. @throws HostError */
  supportedCpuid(): CpuidEntry[] {
    const table = new CpuidTable();
    sys.check(
      sys.ioctl(this.#device.fd, request.KVM_GET_SUPPORTED_CPUID, table.address),
      'KVM_GET_SUPPORTED_CPUID',
      DEVICE,
    );
    return table.entries();
  }

  /** The MSRs that make up a vCPU's state. KVM API 4.3. @throws HostError */
  msrIndices(): number[] {
    const list = new StructMemory(kvm_msr_list, MSR_LIST_MAXIMUM * 4);
    list.set('nmsrs', MSR_LIST_MAXIMUM);
    sys.check(
      sys.ioctl(this.#device.fd, request.KVM_GET_MSR_INDEX_LIST, list.address),
      'KVM_GET_MSR_INDEX_LIST',
      DEVICE,
    );
    const count = list.getNumber('nmsrs');
    return Array.from({ length: count }, (_, i) =>
      list.view.getUint32(kvm_msr_list.size + i * 4, true),
    );
  }

  close(): void {
    this.#device.close();
  }
}
