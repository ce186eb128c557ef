/** A virtual machine as KVM sees it: owner of its file descriptor, its vCPUs and their mappings. */
import { kvm_clock_data, kvm_pit_config } from '../abi/kvm.ts';
import * as request from '../abi/kvm-ioctl.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { Fd } from '../host/fd.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Kvm } from './kvm.ts';
import { KvmStatistics } from './statistics.ts';
import type { VcpuShare } from './vcpu.ts';
import * as inline from './vm-ioctl.ts';

interface OwnedVcpu {
  readonly fd: Fd;
  readonly share: VcpuShare;
  /** Absent before Linux 5.14. */
  readonly statistics?: KvmStatistics;
}

/** A reading of a guest's clock. */
export interface GuestClock {
  /** Since the VM was made. */
  readonly nanoseconds: number;
  /** KVM_CLOCK_* */
  readonly flags: number;
  /** The host's CLOCK_REALTIME at the same moment, nanoseconds. */
  readonly realtime?: number;
  /** The host's time stamp counter at the same moment. */
  readonly hostTsc?: bigint;
}

/** Owns a VM. Guest RAM must outlive it. */
export class Vm extends Closeable {
  readonly #vm: Fd;
  readonly #vcpus: OwnedVcpu[] = [];
  readonly #runSize: number;

  /** An empty VM. @throws HostError */
  constructor(kvm: Kvm) {
    super();
    this.#runSize = kvm.runSize;
    this.#vm = new Fd(kvm.createVmFd());
  }

  /** For the functions of vm-ioctl.ts, in any thread. */
  get fd(): number {
    return this.#vm.fd;
  }

  #ioctl(name: string, number: number, argument: number): number {
    return sys.check(sys.ioctl(this.fd, number, argument), name, 'the VM');
  }

  /**
   * Takes two places of guest physical address space that Intel CPUs need to run real mode; AMD
   * ones ignore them. KVM API 4.36 and 4.41. Before the first vCPU.
   * @param tss guest physical address of three pages outside of RAM
   * @param identityMap guest physical address of one page outside of RAM
   */
  reserveRealModePages(tss: number, identityMap: number): void {
    const argument = new StructMemory({ size: 8 });
    argument.view.setBigUint64(0, BigInt(identityMap), true);
    this.#ioctl('KVM_SET_IDENTITY_MAP_ADDR', request.KVM_SET_IDENTITY_MAP_ADDR, argument.address);
    this.#ioctl('KVM_SET_TSS_ADDR', request.KVM_SET_TSS_ADDR, tss);
  }

  /** Gives the guest its RAM, one memory slot for each region. @throws HostError */
  setMemory(memory: GuestMemory): void {
    for (const [slot, region] of memory.regions.entries()) {
      this.setMemorySlot(slot, region.gpa, region.size, memory.address + region.offset);
    }
  }

  /**
   * Creates, changes or (with size 0) deletes a memory slot. KVM API 4.35.
   * @param gpa guest physical address
   * @param size bytes
   * @param address host virtual address of the first byte
   * @param flags KVM_MEM_*
   */
  setMemorySlot(slot: number, gpa: number, size: number, address: number, flags = 0): void {
    sys.check(
      inline.setMemorySlot(this.fd, slot, gpa, size, address, flags),
      'KVM_SET_USER_MEMORY_REGION',
      `guest physical 0x${gpa.toString(16)}, ${size} bytes`,
    );
  }

  /** PIC, IOAPIC and a local APIC for each vCPU, in the kernel. KVM API 4.24. Before the first vCPU. */
  createIrqchip(): void {
    this.#ioctl('KVM_CREATE_IRQCHIP', request.KVM_CREATE_IRQCHIP, 0);
  }

  /** The 8254 timer in the kernel, with port 0x61 answered. KVM API 4.71. After `createIrqchip`. */
  createPit(): void {
    const config = new StructMemory(kvm_pit_config);
    config.set('flags', request.KVM_PIT_SPEAKER_DUMMY);
    this.#ioctl('KVM_CREATE_PIT2', request.KVM_CREATE_PIT2, config.address);
  }

  /** The guest's clock (kvm-clock) now; undefined where KVM lacks it. KVM API 4.29. */
  clock(): GuestClock | undefined {
    const data = new StructMemory(kvm_clock_data);
    if (sys.ioctl(this.fd, request.KVM_GET_CLOCK, data.address) < 0) return undefined;
    const flags = data.getNumber('flags');
    return {
      nanoseconds: data.getNumber('clock'),
      flags,
      ...((flags & request.KVM_CLOCK_REALTIME) === 0
        ? {}
        : { realtime: data.getNumber('realtime') }),
      ...((flags & request.KVM_CLOCK_HOST_TSC) === 0 ? {} : { hostTsc: data.get('host_tsc') }),
    };
  }

  /** Sets the guest's clock. KVM API 4.30. @param nanoseconds as `clock` returned them */
  setClock(nanoseconds: number): void {
    const data = new StructMemory(kvm_clock_data);
    data.set('clock', nanoseconds);
    this.#ioctl('KVM_SET_CLOCK', request.KVM_SET_CLOCK, data.address);
  }

  /** Creates a vCPU and maps its `kvm_run`. KVM API 4.7. @param id also its APIC id */
  createVcpu(id: number): VcpuShare {
    const fd = new Fd(this.#ioctl('KVM_CREATE_VCPU', request.KVM_CREATE_VCPU, id));
    try {
      const runAddress = sys.check(
        sys.mmap(0, this.#runSize, sys.PROT_READ | sys.PROT_WRITE, sys.MAP_SHARED, fd.fd, 0),
        'mmap',
        `kvm_run of vCPU ${id}`,
      );
      const share = { id, fd: fd.fd, runAddress, runSize: this.#runSize };
      this.#vcpus.push({ fd, share, ...openStatistics(fd.fd) });
      return share;
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** What KVM counted of all vCPUs so far, by KVM's names; empty before Linux 5.14. KVM API 4.133. */
  statistics(): Map<string, number> {
    const sums = new Map<string, number>();
    for (const { statistics } of this.#vcpus) statistics?.addTo(sums);
    return sums;
  }

  assignIoeventfd(match: inline.IoeventfdMatch, fd: number): void {
    sys.check(inline.assignIoeventfd(this.fd, match, fd), 'KVM_IOEVENTFD', describe(match));
  }

  deassignIoeventfd(match: inline.IoeventfdMatch, fd: number): void {
    sys.check(inline.deassignIoeventfd(this.fd, match, fd), 'KVM_IOEVENTFD', describe(match));
  }

  assignIrqfd(gsi: number, fd: number): void {
    sys.check(inline.assignIrqfd(this.fd, gsi, fd), 'KVM_IRQFD', `GSI ${gsi}`);
  }

  deassignIrqfd(gsi: number, fd: number): void {
    sys.check(inline.deassignIrqfd(this.fd, gsi, fd), 'KVM_IRQFD', `GSI ${gsi}`);
  }

  setIrqLine(gsi: number, level: boolean): void {
    sys.check(inline.setIrqLine(this.fd, gsi, level), 'KVM_IRQ_LINE', `GSI ${gsi}`);
  }

  /** Every vCPU thread must have ended before. */
  close(): void {
    for (const { fd, share, statistics } of this.#vcpus.splice(0).reverse()) {
      statistics?.close();
      sys.munmap(share.runAddress, share.runSize);
      fd.close();
    }
    this.#vm.close();
  }
}

/** Call it before the vCPU runs: otherwise KVM waits for an exit to user space. */
function openStatistics(vcpu: number): { statistics?: KvmStatistics } {
  const fd = sys.ioctl(vcpu, request.KVM_GET_STATS_FD, 0);
  return fd < 0 ? {} : { statistics: new KvmStatistics(new Fd(fd)) };
}

function describe(match: inline.IoeventfdMatch): string {
  return `${match.pio ? 'port' : 'address'} 0x${match.address.toString(16)}`;
}
