/**
 * The VM ioctls that any vCPU or queue worker may issue inline, over a bare VM file descriptor.
 * Each returns 0 or more, or a negative errno; `Vm` has the same as methods that throw. The scratch
 * structs belong to the calling thread, since every thread has this module to itself.
 */
import {
  kvm_ioeventfd,
  kvm_irq_level,
  kvm_irqfd,
  kvm_userspace_memory_region,
} from '../abi/kvm.ts';
import * as request from '../abi/kvm-ioctl.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

const ioeventfd = new StructMemory(kvm_ioeventfd);
const irqfd = new StructMemory(kvm_irqfd);
const irqLevel = new StructMemory(kvm_irq_level);
const memoryRegion = new StructMemory(kvm_userspace_memory_region);

/** Which guest writes signal an eventfd. KVM API 4.59. */
export interface IoeventfdMatch {
  /** Port, or guest physical address. */
  readonly address: number;
  /** Bytes of the write: 1, 2, 4, 8, or 0 for any. */
  readonly length: 0 | 1 | 2 | 4 | 8;
  /** True for a port. */
  readonly pio: boolean;
  /** Only writes of this value; needs a non-zero length. */
  readonly datamatch?: number | bigint;
}

function ioeventfdIoctl(vmFd: number, match: IoeventfdMatch, fd: number, flags: number): number {
  const { datamatch } = match;
  ioeventfd.set('addr', match.address);
  ioeventfd.set('len', match.length);
  ioeventfd.set('fd', fd);
  ioeventfd.set('datamatch', datamatch ?? 0);
  ioeventfd.set(
    'flags',
    flags |
      (match.pio ? request.KVM_IOEVENTFD_FLAG_PIO : 0) |
      (datamatch === undefined ? 0 : request.KVM_IOEVENTFD_FLAG_DATAMATCH),
  );
  return sys.ioctl(vmFd, request.KVM_IOEVENTFD, ioeventfd.address);
}

/** Lets matching guest writes signal an eventfd without an exit. -EEXIST: another one matches. */
export function assignIoeventfd(vmFd: number, match: IoeventfdMatch, fd: number): number {
  return ioeventfdIoctl(vmFd, match, fd, 0);
}

/** Undoes `assignIoeventfd` with the same arguments. */
export function deassignIoeventfd(vmFd: number, match: IoeventfdMatch, fd: number): number {
  return ioeventfdIoctl(vmFd, match, fd, request.KVM_IOEVENTFD_FLAG_DEASSIGN);
}

function irqfdIoctl(vmFd: number, fd: number, gsi: number, flags: number, resamplefd = 0): number {
  irqfd.set('resamplefd', resamplefd);
  irqfd.set('fd', fd);
  irqfd.set('gsi', gsi);
  irqfd.set('flags', flags);
  return sys.ioctl(vmFd, request.KVM_IRQFD, irqfd.address);
}

/**
 * Lets an eventfd raise a GSI. KVM API 4.75. What was signaled before is injected at once, but
 * stays in the counter: drain it after this call, or a later deassign shows a stale pending bit.
 */
export function assignIrqfd(vmFd: number, gsi: number, fd: number): number {
  return irqfdIoctl(vmFd, fd, gsi, 0);
}

/**
 * Lets an eventfd assert a level-triggered GSI, until the guest ends the interrupt: then KVM
 * releases the line and signals `resamplefd`. KVM API 4.75.
 */
export function assignLevelIrqfd(
  vmFd: number,
  gsi: number,
  fd: number,
  resamplefd: number,
): number {
  return irqfdIoctl(vmFd, fd, gsi, request.KVM_IRQFD_FLAG_RESAMPLE, resamplefd);
}

/** Undoes an irqfd; from then on signals accumulate in the eventfd. Waits for injections in progress. */
export function deassignIrqfd(vmFd: number, gsi: number, fd: number): number {
  return irqfdIoctl(vmFd, fd, gsi, request.KVM_IRQFD_FLAG_DEASSIGN);
}

/** Sets an interrupt line of the in-kernel PIC and IOAPIC. KVM API 4.25. */
export function setIrqLine(vmFd: number, gsi: number, level: boolean): number {
  irqLevel.set('irq', gsi);
  irqLevel.set('level', level ? 1 : 0);
  return sys.ioctl(vmFd, request.KVM_IRQ_LINE, irqLevel.address);
}

/**
 * Creates, moves or (with size 0) deletes a memory slot. KVM API 4.35.
 * @param gpa guest physical address
 * @param size bytes
 * @param address host virtual address of the first byte
 * @param flags KVM_MEM_*
 */
export function setMemorySlot(
  vmFd: number,
  slot: number,
  gpa: number,
  size: number,
  address: number,
  flags = 0,
): number {
  memoryRegion.set('slot', slot);
  memoryRegion.set('flags', flags);
  memoryRegion.set('guest_phys_addr', gpa);
  memoryRegion.set('memory_size', size);
  memoryRegion.set('userspace_addr', address);
  return sys.ioctl(vmFd, request.KVM_SET_USER_MEMORY_REGION, memoryRegion.address);
}

/** Replaces the whole routing table by the `struct kvm_irq_routing` at a host address. KVM API 4.52. */
export function setGsiRouting(vmFd: number, tableAddress: number): number {
  return sys.ioctl(vmFd, request.KVM_SET_GSI_ROUTING, tableAddress);
}
