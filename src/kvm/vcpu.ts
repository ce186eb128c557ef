/**
 * One vCPU, usable in any thread that knows its file descriptor and where its `kvm_run` is mapped.
 * `Vm` owns both. KVM wants all vCPU ioctls of one vCPU from one thread at a time.
 */
import {
  kvm_fpu,
  kvm_lapic_state,
  kvm_mp_state,
  kvm_msr_entry,
  kvm_msrs,
  kvm_regs,
  kvm_run,
  kvm_sregs,
  kvm_translation,
  kvm_xcr,
  kvm_xcrs,
} from '../abi/kvm.ts';
import * as request from '../abi/kvm-ioctl.ts';
import { writeField } from '../abi/struct.ts';
import { type NativeMemory, StructMemory, viewOf } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { type CpuidEntry, CpuidTable } from './cpuid.ts';
import {
  decodeRegisters,
  decodeSystemRegisters,
  encodeRegisters,
  encodeSystemRegisters,
  type Registers,
  type SystemRegisters,
} from './registers.ts';

const IMMEDIATE_EXIT = kvm_run.immediate_exit.offset;
const EXIT_REASON = kvm_run.exit_reason.offset;

/** What another thread needs to drive a vCPU; a plain, cloneable message. */
export interface VcpuShare {
  /** The id given to KVM_CREATE_VCPU: also its APIC id. */
  readonly id: number;
  /** The vCPU's file descriptor. */
  readonly fd: number;
  /** Host virtual address of its `struct kvm_run`. */
  readonly runAddress: number;
  /** Bytes mapped there. */
  readonly runSize: number;
}

/** A model-specific register and its value. */
export interface Msr {
  readonly index: number;
  readonly data: bigint;
}

/** A thread's handle on a vCPU. */
export class Vcpu {
  readonly share: VcpuShare;
  /** The `struct kvm_run` and what the kernel puts behind it. */
  readonly run: DataView;
  readonly #regs = new StructMemory(kvm_regs);
  readonly #sregs = new StructMemory(kvm_sregs);
  readonly #fd: number;

  constructor(share: VcpuShare) {
    this.share = share;
    this.#fd = share.fd;
    this.run = new DataView(viewOf(share.runAddress, share.runSize));
  }

  /**
   * Runs the guest until the next exit. KVM API 4.10. HOT.
   * @returns 0, or a negative errno: -EINTR and -EAGAIN are no errors
   */
  enter(): number {
    return sys.ioctl(this.#fd, request.KVM_RUN, 0);
  }

  /** `kvm_run.exit_reason` of the last exit. */
  get exitReason(): number {
    return this.run.getUint32(EXIT_REASON, true);
  }

  /**
   * While set, KVM_RUN finishes the pending exit and returns -EINTR without running the guest.
   * A kicker sets it before it signals the thread, so that a kick which comes just before KVM_RUN
   * is not lost; the vCPU's thread clears it once it has seen the request.
   */
  set immediateExit(value: boolean) {
    this.run.setUint8(IMMEDIATE_EXIT, value ? 1 : 0);
  }

  /**
   * Completes the exit that the last KVM_RUN returned with, so that registers and memory are
   * consistent, without running on (KVM API 5, KVM_EXIT_IO). Leaves `immediateExit` off.
   */
  completeExit(): void {
    this.immediateExit = true;
    this.enter();
    this.immediateExit = false;
  }

  /**
   * Notifies the guest that it was stopped, so that its watchdogs do not take the pause for a lockup.
   * KVM API 4.70; only while no thread runs the vCPU.
   * @returns 0 or a negative errno: -EINVAL when the guest uses no kvm-clock
   */
  notePause(): number {
    return sys.ioctl(this.#fd, request.KVM_KVMCLOCK_CTRL, 0);
  }

  /** Issues one of this vCPU's ioctls on a struct. @throws HostError */
  ioctl(name: string, number: number, argument: NativeMemory): number {
    return sys.check(sys.ioctl(this.#fd, number, argument.address), name, `vCPU ${this.share.id}`);
  }

  getRegisters(): Registers {
    this.ioctl('KVM_GET_REGS', request.KVM_GET_REGS, this.#regs);
    return decodeRegisters(this.#regs.view);
  }

  /** Changes the named registers and leaves the others. */
  setRegisters(registers: Partial<Registers>): void {
    this.ioctl('KVM_GET_REGS', request.KVM_GET_REGS, this.#regs);
    encodeRegisters(this.#regs.view, registers);
    this.ioctl('KVM_SET_REGS', request.KVM_SET_REGS, this.#regs);
  }

  getSystemRegisters(): SystemRegisters {
    this.ioctl('KVM_GET_SREGS', request.KVM_GET_SREGS, this.#sregs);
    return decodeSystemRegisters(this.#sregs.view);
  }

  /** Changes the named registers and leaves the others. */
  setSystemRegisters(registers: Partial<SystemRegisters>): void {
    this.ioctl('KVM_GET_SREGS', request.KVM_GET_SREGS, this.#sregs);
    encodeSystemRegisters(this.#sregs.view, registers);
    this.ioctl('KVM_SET_SREGS', request.KVM_SET_SREGS, this.#sregs);
  }

  /** KVM API 4.20. Must come before the first KVM_RUN. */
  setCpuid(entries: readonly CpuidEntry[]): void {
    this.ioctl('KVM_SET_CPUID2', request.KVM_SET_CPUID2, new CpuidTable(entries));
  }

  /**
   * The values of as many of the given MSRs as KVM will read, in order; it stops at the first one
   * that it refuses. KVM API 4.18.
   */
  getMsrs(indices: readonly number[]): Msr[] {
    const table = msrTable(indices.map((index) => ({ index, data: 0n })));
    const count = this.ioctl('KVM_GET_MSRS', request.KVM_GET_MSRS, table);
    return indices.slice(0, count).map((index, i) => ({
      index,
      data: table.view.getBigUint64(msrOffset(i) + kvm_msr_entry.data.offset, true),
    }));
  }

  /** Writes MSRs. Returns how many were written: KVM stops at the first that it refuses. KVM API 4.19. */
  setMsrs(msrs: readonly Msr[]): number {
    return this.ioctl('KVM_SET_MSRS', request.KVM_SET_MSRS, msrTable(msrs));
  }

  /** One of KVM_MP_STATE_*. */
  get mpState(): number {
    const state = new StructMemory(kvm_mp_state);
    this.ioctl('KVM_GET_MP_STATE', request.KVM_GET_MP_STATE, state);
    return state.getNumber('mp_state');
  }

  set mpState(value: number) {
    const state = new StructMemory(kvm_mp_state);
    state.set('mp_state', value);
    this.ioctl('KVM_SET_MP_STATE', request.KVM_SET_MP_STATE, state);
  }

  /** The x87 and SSE state as after FNINIT, with all SSE exceptions masked. */
  resetFpu(): void {
    const fpu = new StructMemory(kvm_fpu);
    fpu.set('fcw', 0x37f);
    fpu.set('mxcsr', 0x1f80);
    this.ioctl('KVM_SET_FPU', request.KVM_SET_FPU, fpu);
  }

  /** Sets XCR0, the extended control register. KVM API 4.45. Returns 0 or a negative errno. */
  setXcr0(value: number): number {
    const table = new StructMemory(kvm_xcrs);
    table.set('nr_xcrs', 1);
    writeField(table.view, kvm_xcr.value, value, kvm_xcrs.xcrs.offset);
    return sys.ioctl(this.#fd, request.KVM_SET_XCRS, table.address);
  }

  getLapic(): StructMemory<typeof kvm_lapic_state> {
    const lapic = new StructMemory(kvm_lapic_state);
    this.ioctl('KVM_GET_LAPIC', request.KVM_GET_LAPIC, lapic);
    return lapic;
  }

  /** Guest physical address of a linear one under the vCPU's paging, -1 if unmapped. KVM API 4.14. */
  translate(linear: bigint): number {
    const translation = new StructMemory(kvm_translation);
    translation.set('linear_address', linear);
    const result = sys.ioctl(this.#fd, request.KVM_TRANSLATE, translation.address);
    if (result < 0 || translation.get('valid') === 0n) return -1;
    return translation.getNumber('physical_address');
  }
}

function msrOffset(i: number): number {
  return kvm_msrs.size + i * kvm_msr_entry.size;
}

function msrTable(msrs: readonly Msr[]): StructMemory<typeof kvm_msrs> {
  const table = new StructMemory(kvm_msrs, msrs.length * kvm_msr_entry.size);
  table.set('nmsrs', msrs.length);
  for (const [i, msr] of msrs.entries()) {
    table.view.setUint32(msrOffset(i) + kvm_msr_entry.index.offset, msr.index, true);
    table.view.setBigUint64(msrOffset(i) + kvm_msr_entry.data.offset, msr.data, true);
  }
  return table;
}
