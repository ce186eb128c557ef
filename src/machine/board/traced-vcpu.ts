/** A vCPU whose exits are traced: the exit loop has it in place of the plain one. */
import { kvm_run, kvm_run_io, kvm_run_mmio } from '../../abi/kvm.ts';
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../abi/kvm-constants.ts';
import { Vcpu, type VcpuShare } from '../../kvm/vcpu.ts';
import * as record from '../../virtio/observe/trace/trace-record.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';

const EXIT_REASON = kvm_run.exit_reason.offset;
const IO_SIZE = kvm_run_io.size_.offset;
const IO_PORT = kvm_run_io.port.offset;
const MMIO_ADDRESS = kvm_run_mmio.phys_addr.offset;
const MMIO_LENGTH = kvm_run_mmio.len.offset;

/** Writes a record of each exit as the guest is entered again. HOT while tracing. */
export class TracedVcpu extends Vcpu {
  readonly #writer: TraceWriter;
  /** When the guest was left, or -1. */
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

  /** Before the exit is served: that overwrites some of it. */
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
