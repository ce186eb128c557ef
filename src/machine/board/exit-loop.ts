/**
 * What a vCPU thread does: enters the guest, and serves the register accesses that it exits on.
 *
 * HOT. Numbers: bench/groups/exits.ts.
 */

import { EAGAIN, EINTR } from '../../abi/errno.ts';
import { kvm_run, kvm_run_io, kvm_run_mmio, kvm_run_system_event } from '../../abi/kvm.ts';
import * as exit from '../../abi/kvm-constants.ts';
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../abi/kvm-constants.ts';
import {
  KVM_SYSTEM_EVENT_CRASH,
  KVM_SYSTEM_EVENT_RESET,
  KVM_SYSTEM_EVENT_SHUTDOWN,
} from '../../abi/kvm-ioctl.ts';
import { Vcpu, type VcpuShare } from '../../kvm/vcpu.ts';
import {
  EXIT_COUNTERS,
  REQUEST_PAUSE,
  REQUEST_RUN,
  REQUEST_STOP,
  VcpuControl,
} from '../../state/vcpu-control.ts';
import * as record from '../../virtio/observe/trace/trace-record.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import type { Board } from './board.ts';

const EXIT_REASON = kvm_run.exit_reason.offset;
const IO_DIRECTION = kvm_run_io.direction.offset;
const IO_SIZE = kvm_run_io.size_.offset;
const IO_PORT = kvm_run_io.port.offset;
const IO_COUNT = kvm_run_io.count.offset;
const IO_DATA_OFFSET = kvm_run_io.data_offset.offset;
const MMIO_ADDRESS = kvm_run_mmio.phys_addr.offset;
const MMIO_DATA = kvm_run_mmio.data.offset;
const MMIO_LENGTH = kvm_run_mmio.len.offset;
const MMIO_IS_WRITE = kvm_run_mmio.is_write.offset;
const SYSTEM_EVENT_TYPE = kvm_run_system_event.type.offset;

/** Why a vCPU's loop ended. */
export type LoopEnd =
  | 'stopped'
  | 'triple-fault'
  | 'power-off'
  | 'reboot'
  | 'panic'
  /** KVM returned an exit that nothing here handles: the caller makes a dump. */
  | 'unhandled'
  /** KVM_RUN itself failed. */
  | 'failed';

/** The loop of one vCPU, run by its own thread. */
export class ExitLoop {
  /** errno of KVM_RUN when the loop ended with `failed`. */
  errno = 0;
  readonly #vcpu: Vcpu;
  readonly #board: Board;
  readonly #control: VcpuControl;
  readonly #run: DataView;
  readonly #counters: Int32Array;
  readonly #paused: () => void;

  /** @param paused called whenever this vCPU has stopped on request */
  constructor(vcpu: Vcpu, board: Board, paused: () => void) {
    this.#vcpu = vcpu;
    this.#board = board;
    this.#control = board.control;
    this.#run = vcpu.run;
    this.#counters = board.control.exitCounters(vcpu.share.id);
    this.#paused = paused;
  }

  /** Runs the guest until it or the machine ends. */
  run(threadId: number): LoopEnd {
    const { id } = this.#vcpu.share;
    const run = this.#run;
    const counters = this.#counters;
    for (;;) {
      // The kicker writes the request before `immediate_exit`; this store, a full barrier, keeps
      // our clearing of `immediate_exit` from passing the load of the request.
      this.#control.setThreadId(id, threadId);
      if (this.#control.request !== REQUEST_RUN && this.#rest()) return 'stopped';
      const result = this.#vcpu.enter();
      if (result < 0) {
        if (result === -EINTR) {
          this.#vcpu.immediateExit = false;
          // Also a full barrier: a thread that sets `immediate_exit` later has parked it before.
          if (this.#control.isParked(id)) return 'stopped';
        } else if (result !== -EAGAIN) {
          this.errno = -result;
          return 'failed';
        }
        continue;
      }
      const reason = run.getUint32(EXIT_REASON, true);
      const counter = reason < EXIT_COUNTERS ? reason : EXIT_COUNTERS - 1;
      counters[counter] = (counters[counter] as number) + 1;
      switch (reason) {
        case exit.KVM_EXIT_IO:
          this.#io();
          break;
        case exit.KVM_EXIT_MMIO:
          this.#mmio();
          break;
        case exit.KVM_EXIT_INTR:
        case exit.KVM_EXIT_IRQ_WINDOW_OPEN:
          break;
        case exit.KVM_EXIT_SHUTDOWN:
          return 'triple-fault';
        case exit.KVM_EXIT_SYSTEM_EVENT:
          return this.#systemEvent();
        default:
          return 'unhandled';
      }
    }
  }

  /** Waits while a pause is requested. Returns true for a stop. */
  #rest(): boolean {
    let reported = 0;
    for (;;) {
      const { ticket } = this.#control;
      const request = VcpuControl.requestOf(ticket);
      if (request === REQUEST_STOP || this.#control.isParked(this.#vcpu.share.id)) return true;
      if (request === REQUEST_RUN) return false;
      if (request === REQUEST_PAUSE && reported !== ticket) {
        // Registers and memory must be consistent while others look at them.
        this.#vcpu.completeExit();
        this.#paused();
        reported = ticket;
      }
      this.#control.waitWhile(ticket);
    }
  }

  #io(): void {
    const run = this.#run;
    const size = run.getUint8(IO_SIZE);
    const port = run.getUint16(IO_PORT, true);
    const count = run.getUint32(IO_COUNT, true);
    const isOut = run.getUint8(IO_DIRECTION) === exit.KVM_EXIT_IO_OUT;
    let at = run.getUint32(IO_DATA_OFFSET, true);
    for (let i = 0; i < count; i++, at += size) {
      if (isOut) this.#board.writePort(port, size, this.#load(at, size));
      else this.#store(at, size, this.#board.readPort(port, size));
    }
  }

  #mmio(): void {
    const run = this.#run;
    const high = run.getUint32(MMIO_ADDRESS + 4, true);
    const address = high * 2 ** 32 + run.getUint32(MMIO_ADDRESS, true);
    const length = run.getUint32(MMIO_LENGTH, true);
    const isWrite = run.getUint8(MMIO_IS_WRITE) === 1;
    // Registers are 1, 2 or 4 bytes wide. A wider access is several, the low half first; any
    // length can come from one that crossed a page.
    let size = 4;
    for (let at = 0; at < length; at += size) {
      const left = length - at;
      size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (isWrite) this.#board.writeMemory(address + at, size, this.#load(MMIO_DATA + at, size));
      else this.#store(MMIO_DATA + at, size, this.#board.readMemory(address + at, size));
    }
  }

  #load(at: number, size: number): number {
    if (size === 1) return this.#run.getUint8(at);
    return size === 2 ? this.#run.getUint16(at, true) : this.#run.getUint32(at, true);
  }

  #store(at: number, size: number, value: number): void {
    if (size === 1) this.#run.setUint8(at, value);
    else if (size === 2) this.#run.setUint16(at, value, true);
    else this.#run.setUint32(at, value, true);
  }

  #systemEvent(): LoopEnd {
    switch (this.#run.getUint32(SYSTEM_EVENT_TYPE, true)) {
      case KVM_SYSTEM_EVENT_SHUTDOWN:
        return 'power-off';
      case KVM_SYSTEM_EVENT_RESET:
        return 'reboot';
      case KVM_SYSTEM_EVENT_CRASH:
        return 'panic';
      default:
        return 'unhandled';
    }
  }
}

/** A vCPU that writes a record of each exit as it enters the guest again. HOT while tracing. */
export class TracedVcpu extends Vcpu {
  readonly #writer: TraceWriter;
  /** When the vCPU left the guest, or -1. */
  #left = -1;
  #reason = 0;
  #bytes = 0;
  #address = 0;

  constructor(share: VcpuShare, writer: TraceWriter) {
    super(share);
    this.#writer = writer;
  }

  override enter(): number {
    this.#record();
    const result = super.enter();
    if (result >= 0) this.#note();
    return result;
  }

  #record(): void {
    if (this.#left < 0) return;
    const left = this.#left;
    this.#left = -1;
    const { id } = this.share;
    this.#writer.write(record.EXIT, id, this.#reason, this.#bytes, left, this.#address);
  }

  /** Before the exit is served, which overwrites some of it. */
  #note(): void {
    const { run } = this;
    this.#left = this.#writer.now();
    const reason = run.getUint32(EXIT_REASON, true);
    this.#reason = reason;
    this.#bytes = 0;
    this.#address = 0;
    if (reason === KVM_EXIT_IO) {
      this.#bytes = run.getUint8(IO_SIZE);
      this.#address = run.getUint16(IO_PORT, true);
    } else if (reason === KVM_EXIT_MMIO) {
      this.#bytes = run.getUint32(MMIO_LENGTH, true);
      this.#address =
        run.getUint32(MMIO_ADDRESS + 4, true) * 2 ** 32 + run.getUint32(MMIO_ADDRESS, true);
    }
  }
}
