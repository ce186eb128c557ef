/** Machines for tests of the control socket and of the command line. */

import { EventEmitter } from 'node:events';
import { Duplex, PassThrough, Writable } from 'node:stream';
import type { CommandExit, GuestProcess } from '../../../src/agent/command.ts';
import type { SpawnOptions } from '../../../src/agent/command-options.ts';
import type { RunnableMachine } from '../../../src/cli/run/run-machine.ts';
import type { RunStreams } from '../../../src/cli/terminal/console-io.ts';
import { UsageError } from '../../../src/host/errors.ts';
import type { BalloonState } from '../../../src/machine/balloon.ts';
import type { ControlledMachine } from '../../../src/machine/control/server.ts';
import type { DatapathName } from '../../../src/machine/devices/queue-service.ts';
import type { RemovalOptions } from '../../../src/machine/hotplug.ts';
import type { InspectFilter, MachineInspection } from '../../../src/machine/inspect.ts';
import type { MachineState, VirtualMachineEvents } from '../../../src/machine/machine.ts';
import type { MachineExit } from '../../../src/machine/options.ts';
import type { MachineDeviceOptions } from '../../../src/virtio/device-type.ts';

/** A duplex stream, whose other side is the test's. */
export class FakeConsole extends Duplex {
  typed = '';

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.typed += chunk.toString('latin1');
    done();
  }
}

export class FakeVm extends EventEmitter<VirtualMachineEvents> implements ControlledMachine {
  state: MachineState = 'running';
  readonly console = new FakeConsole();
  readonly serial = new FakeConsole();
  readonly droppedOutput = { console: 0, serial: 0 };
  /** What is to be seen of the consoles' output. */
  readonly watchers = new Set<{ console: string; see: (bytes: Uint8Array) => void }>();
  readonly datapaths = new Map<string, DatapathName>([['net0', 'userspace']]);
  presses = 0;
  generations = 0;
  listens = true;
  readonly links: string[] = [];
  /** Undefined: it has none. */
  kept: BalloonState | undefined;
  memory = { target: 2 ** 30, current: 2 ** 30, max: 2 ** 32 };
  async setMemory(target: number): Promise<void> {
    this.memory = { ...this.memory, target };
  }
  readonly balloon = {
    find: () => this.kept,
    setTarget: async (target: number) => {
      if (this.kept === undefined) throw new UsageError('E_BALLOON', 'no balloon');
      this.kept = { ...this.kept, target };
    },
    statistics: async () => ({
      ...(this.kept ?? { target: 0, current: 0 }),
      guest: { free: 64 * 2 ** 20, majorFaults: 12 },
    }),
  };
  readonly queueCalls: string[] = [];
  readonly filters: InspectFilter[] = [];
  async metrics() {
    return {
      state: this.state,
      droppedOutput: this.droppedOutput,
      breaches: 0,
      exits: { KVM_EXIT_IO: 1, KVM_EXIT_MMIO: 2 },
      kvm: { exits: 12, halt_exits: 7, nmi_injections: 0 },
    };
  }
  async traceSummary() {
    return undefined;
  }
  watchOutput(console: string, see: (bytes: Uint8Array) => void): () => void {
    const watcher = { console, see };
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }
  /** Its guest prints on a console. */
  print(console: string, text: string): void {
    for (const watcher of this.watchers) {
      if (watcher.console === console) watcher.see(Buffer.from(text));
    }
  }
  async shareAgent(client: Duplex): Promise<void> {
    client.end();
  }
  /** What listens in its guest, by port. */
  readonly ports = new Map<number, () => Duplex>();
  connect(port: number): Duplex {
    const listener = this.ports.get(port);
    if (listener === undefined) throw new UsageError('ECONNREFUSED', 'refused');
    return listener();
  }
  async start(): Promise<void> {
    this.state = 'running';
  }
  async resizeDisk(device: string, bytes?: number): Promise<void> {
    this.queueCalls.push(`resize ${device} ${bytes}`);
  }
  async setCpus(count: number, { timeout }: Pick<RemovalOptions, 'timeout'>): Promise<void> {
    this.queueCalls.push(`cpus ${count} ${timeout}`);
  }
  async addDevice(device: MachineDeviceOptions): Promise<string> {
    this.queueCalls.push(`add ${JSON.stringify(device)}`);
    return 'blk1';
  }
  async removeDevice(device: string, { surprise, timeout }: RemovalOptions): Promise<void> {
    this.queueCalls.push(`remove ${device} ${surprise} ${timeout}`);
  }
  async reloadDevice(device: string): Promise<void> {
    this.queueCalls.push(`reload ${device}`);
  }
  resizeConsole(columns: number, rows: number): void {
    this.queueCalls.push(`resize ${columns} ${rows}`);
  }
  async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    if (!this.datapaths.has(device)) throw new UsageError('E_DEVICE', `no ${device}`);
    this.datapaths.set(device, datapath);
  }
  async setLink(device: string, up: boolean): Promise<void> {
    this.links.push(`${device} ${up}`);
  }
  async holdQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`hold ${device} ${queue}`);
  }
  async stepQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`step ${device} ${queue}`);
  }
  async releaseQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`release ${device} ${queue}`);
  }
  async inspect(filter: InspectFilter): Promise<MachineInspection> {
    this.filters.push(filter);
    return { state: this.state, devices: [], functions: [] };
  }
  async pause(): Promise<void> {
    this.state = 'paused';
  }
  async resume(): Promise<void> {
    this.state = 'running';
  }
  async stop(): Promise<void> {
    this.state = 'ended';
  }
  async pressSleepButton(): Promise<void> {
    this.state = 'suspended';
  }
  async wake(): Promise<void> {
    this.state = 'running';
  }
  async renewGeneration(): Promise<void> {
    this.generations++;
  }
  /** The guest ends at once. */
  async pressPowerButton(): Promise<void> {
    this.presses++;
    if (this.listens) this.state = 'ended';
  }
}

/** A command whose output and end come from the test. */
export class FakeProcess implements GuestProcess {
  readonly stdin = new FakeConsole();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly started = Promise.resolve(1);
  readonly exit: Promise<CommandExit>;
  end: (exit: CommandExit) => void = () => {};
  lose: (error: Error) => void = () => {};

  constructor() {
    this.exit = new Promise((resolve, reject) => {
      this.end = (exit) => {
        this.stdout.end();
        this.stderr.end();
        resolve(exit);
      };
      this.lose = reject;
    });
  }

  kill(): void {}

  resize(): void {}
}

export class FakeMachine implements RunnableMachine {
  readonly console = new FakeConsole();
  readonly serial = new FakeConsole();
  readonly process = new FakeProcess();
  readonly calls: string[] = [];
  sizes: number[][] = [];
  droppedOutput = { console: 0, serial: 0 };
  end: (exit: MachineExit) => void = () => {};
  log: (text: string) => void = () => {};
  readonly #exit = new Promise<MachineExit>((resolve) => {
    this.end = resolve;
  });
  #started: () => void = () => {};
  /** Resolves when `start` was called. */
  readonly started = new Promise<void>((resolve) => {
    this.#started = resolve;
  });

  async start(): Promise<void> {
    this.calls.push('start');
    this.#started();
  }

  async stop(): Promise<void> {
    this.calls.push('stop');
  }

  wait(): Promise<MachineExit> {
    return this.#exit;
  }

  spawn(argv: readonly string[], options: SpawnOptions = {}): GuestProcess {
    this.calls.push(`spawn ${argv.join(' ')} ${JSON.stringify(options)}`);
    return this.process;
  }

  resizeConsole(columns: number, rows: number): void {
    this.sizes.push([columns, rows]);
  }

  on(_event: 'log', listener: (text: string) => void): void {
    this.log = listener;
  }
}

/** A stream that a test reads, and that may be slow. */
export class Sink extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString('latin1');
    done();
  }
}

/** Streams of a process whose standard input is a pipe. */
export class FakeStreams implements RunStreams {
  readonly input = new PassThrough();
  readonly output = new Sink();
  readonly errorOutput = new Sink();

  size(): { columns: number; rows: number } {
    return { columns: 100, rows: 30 };
  }
}

/** Resolves when a condition holds; the test's own time limit ends a wait in vain. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}
