/**
 * What a PIO exit costs: a guest that reads the serial port's scratch register in a loop, served by
 * the machine's exit loop with its bus and lock, by the same loop under trace, by a bare loop through
 * koffi, and by a bare loop in C. On a busy host only the lowest of many short samples counts.
 */
import { kvm_run_io } from '../../src/abi/kvm.ts';
import { KVM_EXIT_IO, KVM_EXIT_IO_OUT } from '../../src/abi/kvm-constants.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { enterFlatMode } from '../../src/kvm/entry.ts';
import { Kvm } from '../../src/kvm/kvm.ts';
import { Vcpu } from '../../src/kvm/vcpu.ts';
import { Vm } from '../../src/kvm/vm.ts';
import { Board } from '../../src/machine/board/board.ts';
import { ExitLoop, TracedVcpu } from '../../src/machine/board/exit-loop.ts';
import { Ram } from '../../src/memory/ram.ts';
import { COM1_PORT, RESET_PORT, RESET_VALUE } from '../../src/platform/layout.ts';
import { SharedState } from '../../src/state/shared-state.ts';
import { REQUEST_RUN, REQUEST_STOP } from '../../src/state/vcpu-control.ts';
import {
  allocateTraceRing,
  TraceReader,
  TraceWriter,
} from '../../src/virtio/observe/trace/trace-ring.ts';
import type { Measure } from '../harness/measure.ts';
import { compilePeer, type Group, measureCases } from './group.ts';

const SAMPLES_PER_ROUND = 100;
const EXITS = 300;
const MEASURE: Measure = { name: 'PIO exit', unit: 'us', better: 'lower', by: 'lowest' };

const RAM_SIZE = 0x1_0000;
const CODE = 0x1000;
const STACK_TOP = 0x8000;
const SCRATCH_REGISTER = COM1_PORT + 7;

const GUEST = Uint8Array.of(
  ...[0x66, 0xba, SCRATCH_REGISTER & 0xff, SCRATCH_REGISTER >> 8], // mov dx, port
  ...[0xec], // in al, dx
  ...[0x49], // dec ecx
  ...[0x75, 0xfc], // jnz -4
  ...[0xb0, RESET_VALUE], // mov al, RESET_VALUE
  ...[0x66, 0xba, RESET_PORT & 0xff, RESET_PORT >> 8], // mov dx, RESET_PORT
  ...[0xee], // out dx, al
  ...[0xeb, 0xfe], // jmp -2
);

const IO_DIRECTION = kvm_run_io.direction.offset;
const IO_DATA_OFFSET = kvm_run_io.data_offset.offset;

/** Serves reads until the guest writes. HOT. */
function bareLoop(vcpu: Vcpu): void {
  const { run } = vcpu;
  for (;;) {
    const result = vcpu.enter();
    if (result < 0) throw new Error(`KVM_RUN: errno ${-result}`);
    if (vcpu.exitReason !== KVM_EXIT_IO) throw new Error(`exit ${vcpu.exitReason}`);
    if (run.getUint8(IO_DIRECTION) === KVM_EXIT_IO_OUT) return;
    run.setUint8(run.getUint32(IO_DATA_OFFSET, true), 0x60);
  }
}

/** A VM with the guest, and what its loops need. */
class Rig implements Disposable {
  readonly #ram = new Ram(RAM_SIZE);
  readonly #kvm = Kvm.open();
  readonly #vm = new Vm(this.#kvm);
  readonly #vcpu: Vcpu;
  readonly #traced: TracedVcpu;
  readonly #trace: TraceReader;

  constructor() {
    this.#ram.memory.bytes(CODE, GUEST.length).set(GUEST);
    this.#vm.setMemory(this.#ram.memory);
    this.#vm.createIrqchip();
    this.#vcpu = new Vcpu(this.#vm.createVcpu(0));
    const ring = allocateTraceRing();
    this.#trace = new TraceReader(ring);
    this.#traced = new TracedVcpu(this.#vcpu.share, new TraceWriter(ring));
  }

  /** Each makes a function that runs the guest to its end, by the row's name. */
  readonly loops: Readonly<Record<string, () => () => void>> = {
    'exit loop': () => this.#exitLoop(this.#vcpu),
    traced: () => this.#exitLoop(this.#traced),
    koffi: () => () => bareLoop(this.#vcpu),
  };

  /** Microseconds per exit. */
  sample(loop: () => () => void): number {
    const serve = loop();
    enterFlatMode(this.#vcpu, CODE, STACK_TOP);
    this.#vcpu.setRegisters({ rcx: BigInt(EXITS) });
    this.#trace.drain(Number.POSITIVE_INFINITY, () => {});
    const start = process.hrtime.bigint();
    serve();
    return Number(process.hrtime.bigint() - start) / 1000 / (EXITS + 1);
  }

  /** With its own board, since a board reports the end of its guest once. */
  #exitLoop(vcpu: Vcpu): () => void {
    const buffer = SharedState.allocate(Board.stateSize(0));
    const board: Board = new Board({ buffer, vmFd: this.#vm.fd, cpus: 1, devices: [] }, () => {
      board.control.request = REQUEST_STOP;
    });
    board.reset();
    board.control.request = REQUEST_RUN;
    const loop = new ExitLoop(vcpu, board, () => {});
    return () => {
      const end = loop.run(1);
      if (end !== 'stopped') throw new Error(end);
    };
  }

  [Symbol.dispose](): void {
    this.#vm[Symbol.dispose]();
    this.#kvm[Symbol.dispose]();
    this.#ram[Symbol.dispose]();
  }
}

export const exitsGroup: Group = {
  name: 'exits',
  summary: 'a PIO exit through the exit loop, and in C (docs/kvm.md)',
  async run(context) {
    using folder = new TemporaryFolder('nodevmm-bench-');
    const inC = compilePeer('exit-cost', folder.path, context);
    using rig = new Rig();
    const own = Object.entries(rig.loops).map(([name, loop]) => {
      return [name, () => ({ sample: () => rig.sample(loop) })] as const;
    });
    const peer = inC && (() => ({ sample: () => inC([String(EXITS)], GUEST) / 1000 }));
    const rows = { ...Object.fromEntries(own), C: peer };
    const cases = [{ measure: MEASURE, rows, peer: 'C' }];
    await measureCases('exits', cases, context, SAMPLES_PER_ROUND);
  },
};
