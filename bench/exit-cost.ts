/**
 * What an exit from the guest costs: a guest that reads the serial port's scratch register over and
 * over, served by a bare loop through koffi, by the same loop through Node-API, by the machine's
 * own exit loop with its bus and lock, by the same under trace, and by a bare loop in C (bench/peers/exit-cost.c, compiled
 * with cc when there is one). Samples are interleaved.
 *
 * Many short samples: on a busy host only the lowest of them says something.
 *
 * Usage: node dist/bench/exit-cost.js [SAMPLES [EXITS [--json]]]
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kvm_run_io } from '../src/abi/kvm.ts';
import { KVM_EXIT_IO, KVM_EXIT_IO_OUT } from '../src/abi/kvm-constants.ts';
import { KVM_RUN } from '../src/abi/kvm-ioctl.ts';
import { enterFlatMode } from '../src/kvm/entry.ts';
import { Kvm } from '../src/kvm/kvm.ts';
import { Vcpu } from '../src/kvm/vcpu.ts';
import { Vm } from '../src/kvm/vm.ts';
import { Board } from '../src/machine/board/board.ts';
import { ExitLoop } from '../src/machine/board/exit-loop.ts';
import { TracedVcpu } from '../src/machine/board/traced-vcpu.ts';
import { Ram } from '../src/memory/ram.ts';
import { COM1_PORT, RESET_PORT, RESET_VALUE } from '../src/platform/layout.ts';
import { SharedState } from '../src/state/shared-state.ts';
import { REQUEST_RUN, REQUEST_STOP } from '../src/state/vcpu-control.ts';
import {
  allocateTraceRing,
  TraceReader,
  TraceWriter,
} from '../src/virtio/observe/trace/trace-ring.ts';

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

/** Serves reads until the guest writes. Returns the number of exits. HOT. */
function bareLoop(vcpu: Vcpu, enter: () => number): number {
  const { run } = vcpu;
  for (let exits = 1; ; exits++) {
    const result = enter();
    if (result < 0) throw new Error(`KVM_RUN: errno ${-result}`);
    if (vcpu.exitReason !== KVM_EXIT_IO) throw new Error(`exit ${vcpu.exitReason}`);
    if (run.getUint8(IO_DIRECTION) === KVM_EXIT_IO_OUT) return exits;
    run.setUint8(run.getUint32(IO_DATA_OFFSET, true), 0x60);
  }
}

type Sample = () => number;

/** Nanoseconds an exit. */
function timed(exits: number, serve: () => void): number {
  const start = process.hrtime.bigint();
  serve();
  return Number(process.hrtime.bigint() - start) / (exits + 1);
}

function source(name: string): string {
  return fileURLToPath(new URL(`../../bench/peers/${name}`, import.meta.url));
}

/** Builds a peer; undefined, with the reason printed, when that fails. */
function compile(output: string, args: readonly string[]): string | undefined {
  try {
    execFileSync('cc', ['-O2', '-o', output, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    return output;
  } catch (error) {
    console.error(`without ${output.split('/').at(-1)}: ${String(error).split('\n')[0]}`);
    return undefined;
  }
}

function nativeSample(folder: string, exits: number): Sample | undefined {
  const program = compile(join(folder, 'exit-cost'), [source('exit-cost.c')]);
  if (program === undefined) return undefined;
  return () => Number(execFileSync(program, [String(exits)], { input: GUEST }));
}

function napiIoctl(folder: string): ((fd: number, request: number) => number) | undefined {
  const headers = join(dirname(dirname(process.execPath)), 'include/node');
  if (!existsSync(join(headers, 'node_api.h'))) return undefined;
  const addon = compile(join(folder, 'exit-cost.node'), [
    ...['-shared', '-fPIC', `-I${headers}`, '-DNODE_GYP_MODULE_NAME=exit_cost'],
    source('exit-cost-napi.c'),
  ]);
  if (addon === undefined) return undefined;
  const loaded = createRequire(import.meta.url)(addon) as {
    ioctl: (fd: number, request: number) => number;
  };
  return loaded.ioctl;
}

function summary(samples: readonly number[]): { low: number; median: number } {
  const sorted = samples.toSorted((a, b) => a - b);
  return {
    low: sorted[0] ?? Number.NaN,
    median: sorted[Math.floor(sorted.length / 2)] ?? Number.NaN,
  };
}

interface Variant {
  readonly name: string;
  readonly sample: Sample;
  /** Nanoseconds an exit. */
  readonly samples: number[];
}

function printTable(variants: readonly Variant[]): void {
  console.log(`us an exit, of ${count} samples of ${exits} exits, Node ${process.version}`);
  console.log('variant    lowest   median   over C (lowest)');
  const c = variants.find(({ name }) => name === 'C');
  const base = c === undefined ? Number.NaN : summary(c.samples).low;
  const us = (ns: number): string => (ns / 1e3).toFixed(2);
  for (const { name, samples } of variants) {
    const { low, median } = summary(samples);
    console.log(
      `${name.padEnd(10)} ${us(low).padEnd(8)} ${us(median).padEnd(8)} ${us(low - base)}`,
    );
  }
}

const count = Number(process.argv[2] ?? 200);
const exits = Number(process.argv[3] ?? 300);
const folder = mkdtempSync(join(tmpdir(), 'nodevmm-bench-'));
const ram = new Ram(RAM_SIZE);
const kvm = Kvm.open();
const vm = new Vm(kvm);
try {
  ram.memory.bytes(CODE, GUEST.length).set(GUEST);
  vm.setMemory(ram.memory);
  vm.createIrqchip();
  const vcpu = new Vcpu(vm.createVcpu(0));
  const restart = (): void => {
    enterFlatMode(vcpu, CODE, STACK_TOP);
    vcpu.setRegisters({ rcx: BigInt(exits) });
  };
  const buffer = SharedState.allocate(Board.stateSize(0));
  const board: Board = new Board({ buffer, vmFd: vm.fd, cpus: 1, devices: [] }, () => {
    board.control.request = REQUEST_STOP;
  });
  board.reset();
  const loop = new ExitLoop(vcpu, board, () => {});
  const ring = allocateTraceRing();
  const trace = new TraceReader(ring);
  const traced = new ExitLoop(new TracedVcpu(vcpu.share, new TraceWriter(ring)), board, () => {});
  const ioctl = napiIoctl(folder);
  const { fd } = vcpu.share;
  const native = nativeSample(folder, exits);

  const variants: Variant[] = [];
  const add = (name: string, sample: Sample): void => {
    variants.push({ name, sample, samples: [] });
  };
  if (native !== undefined) add('C', native);
  if (ioctl !== undefined) {
    add('Node-API', () => timed(exits, () => bareLoop(vcpu, () => ioctl(fd, KVM_RUN))));
  }
  add('koffi', () => timed(exits, () => bareLoop(vcpu, () => vcpu.enter())));
  add('exit loop', () => {
    board.control.request = REQUEST_RUN;
    return timed(exits, () => {
      const end = loop.run(1);
      if (end !== 'stopped') throw new Error(end);
    });
  });
  add('traced', () => {
    board.control.request = REQUEST_RUN;
    trace.drain(Number.POSITIVE_INFINITY, () => {});
    return timed(exits, () => {
      const end = traced.run(1);
      if (end !== 'stopped') throw new Error(end);
    });
  });

  for (let i = 0; i <= count; i++) {
    for (const { sample, samples } of variants) {
      restart();
      const value = sample();
      // The first round warms up.
      if (i > 0) samples.push(value);
    }
  }
  if (process.argv[4] === '--json') {
    const report = variants.map(({ name, samples }) => ({ name, samplesNs: samples }));
    console.log(JSON.stringify({ variants: report }));
  } else {
    printTable(variants);
  }
} finally {
  vm[Symbol.dispose]();
  kvm[Symbol.dispose]();
  ram[Symbol.dispose]();
  rmSync(folder, { recursive: true });
}
