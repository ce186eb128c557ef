/** The public API: a virtual machine from creation to disposal. */
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import type { AgentClient, ExecOptions, ExecResult } from '../agent/client.ts';
import type { GuestProcess, SpawnOptions } from '../agent/command.ts';
import { StepQueue } from '../datapath/datapath.ts';
import { AsyncCleanupStack } from '../host/cleanup-stack.ts';
import { messageOf, UsageError } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import { Kvm } from '../kvm/kvm.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { Ram, type RamBacking } from '../memory/ram.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import { Consoles } from './consoles.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { createDevices, MachineDevices } from './devices/machine-devices.ts';
import type { DatapathName } from './devices/queue-service.ts';
import { VirtioMachineDevice } from './devices/virtio-device.ts';
import { GuestAgent, guestEnded } from './guest-agent.ts';
import type { InspectFilter, MachineInspection } from './inspect.ts';
import { MachineObserver, type RuleBreach } from './machine-observer.ts';
import type { MachineExit, MachineOptions } from './options.ts';
import { PowerCycle } from './power-cycle.ts';
import { type ResolvedOptions, resolveOptions } from './resolve-options.ts';

/** Events of a machine, by name. */
export interface VirtualMachineEvents {
  /** The run ended: by the guest, by `stop`, or because something failed. */
  exit: [MachineExit];
  /** One line for the user, e.g. that a driver broke a rule. */
  log: [string];
  /** The guest rebooted and runs again. */
  reboot: [];
  /** A driver or a device broke a rule of virtio (option `check`); `log` reports it, too. */
  breach: [RuleBreach];
}

/** The state of a machine between its creation and its disposal. */
export type MachineState = 'created' | 'starting' | 'running' | 'paused' | 'ended' | 'disposed';

/**
 * A virtual machine. `await using vm = await VirtualMachine.create({...})` releases everything
 * that it holds, whatever happens in between.
 */
export class VirtualMachine extends EventEmitter<VirtualMachineEvents> implements AsyncDisposable {
  /**
   * The guest's virtio console, hvc0: write to type, read what it prints. The guest never waits for
   * a reader: beyond 1 MiB of unread output, more is dropped (see `droppedOutput`), and a
   * line in the stream reports how much.
   */
  readonly console: Duplex;
  /** The guest's first serial port, ttyS0; read or dropped as `console`. */
  readonly serial: Duplex;
  readonly #options: ResolvedOptions;
  readonly #kvm: Kvm;
  readonly #memory: GuestMemory;
  readonly #consoles: Consoles;
  readonly #devices: MachineDevices;
  /** Lines from before a listener could be added. */
  readonly #notices: string[] = [];
  readonly #observer: MachineObserver;
  #owned = new AsyncCleanupStack();
  readonly #exit: Promise<MachineExit>;
  #resolveExit: (exit: MachineExit) => void = () => {};
  #state: MachineState = 'created';
  #cycle: PowerCycle | undefined;
  readonly #agent: GuestAgent | undefined;
  /** Since the guest's power-on. */
  #buttonPressed = false;
  /** Serializes changes of the machine's state. */
  readonly #steps = new StepQueue();

  /**
   * Opens KVM, allocates guest RAM, opens disks and taps. The guest does not run yet.
   * @throws UsageError or HostError, in one line, when something is unavailable; everything
   *   is released then
   */
  static async create(options: MachineOptions): Promise<VirtualMachine> {
    const resolved = resolveOptions(options);
    await using stack = new AsyncCleanupStack();
    const kvm = stack.use(Kvm.open());
    if (resolved.cpus > kvm.maxVcpus) {
      throw new UsageError(
        'E_CPUS',
        `this KVM supports at most ${kvm.maxVcpus} vCPUs, not ${resolved.cpus}; reduce cpus`,
      );
    }
    const ram = stack.use(new Ram(resolved.memory, ramBacking(resolved)));
    let vm: VirtualMachine | undefined;
    const log = (text: string): void => {
      if (vm !== undefined) vm.#log(text);
    };
    const devices: MachineDevice[] = [];
    stack.defer(() => closeAll(devices));
    await createDevices(resolved.devices, devices, log);
    vm = new VirtualMachine(resolved, kvm, ram.memory, devices, log);
    stack.use(vm.#observer);
    for (const device of devices) await device.prepare?.();
    vm.#owned = stack.move();
    return vm;
  }

  /** @param devices gets the console as well, as the first */
  private constructor(
    options: ResolvedOptions,
    kvm: Kvm,
    memory: GuestMemory,
    devices: MachineDevice[],
    log: (text: string) => void,
  ) {
    super();
    this.#options = options;
    this.#kvm = kvm;
    this.#memory = memory;
    this.#consoles = new Consoles(options.agent, log);
    this.console = this.#consoles.console;
    this.serial = this.#consoles.serial;
    const { agentPort } = this.#consoles;
    this.#agent = agentPort && new GuestAgent(agentPort);
    const carried = { transport: options.transport, ...options.console };
    devices.unshift(new VirtioMachineDevice(this.#consoles.device, carried, log));
    this.#devices = new MachineDevices(devices);
    this.#observer = new MachineObserver(options, devices, log, (breach) => {
      this.emit('breach', breach);
      const queue = breach.queue === undefined ? '' : `, queue ${breach.queue}`;
      const dump = breach.dump.map((line) => `\n  ${line}`).join('');
      log(`${breach.device}${queue}: the ${breach.side} broke a rule: ${breach.text}${dump}`);
    });
    this.#exit = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
  }

  get state(): MachineState {
    return this.#state;
  }

  /** Which datapath serves each virtio device's queues, by the device's name. */
  get datapaths(): ReadonlyMap<string, DatapathName> {
    return this.#devices.datapaths;
  }

  /**
   * Switches a device's queues to another datapath, even while they are busy: each continues where it
   * stopped.
   * @param device its name: `net0`
   * @throws UsageError when there is no such device, or that datapath cannot serve it; HostError when
   *   the host fails. Everything is then as it was before.
   */
  async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    this.#expectLife();
    const found = this.#devices.find(device);
    await this.#steps.run(() => found.moveTo(datapath));
  }

  /**
   * Plugs in or unplugs the cable of a network interface, on both sides.
   * @param device its name: `net0`
   * @throws UsageError when there is no such network interface
   */
  setLink(device: string, up: boolean): void {
    this.#devices.setLink(device, up);
  }

  /** A snapshot of the virtio devices: registers, features, rings. Changes nothing. */
  async inspect(filter: InspectFilter = {}): Promise<MachineInspection> {
    this.#expectLife();
    return { state: this.#state, devices: await this.#devices.inspect(this.#memory, filter) };
  }

  /**
   * Holds a queue: its device takes no more buffers from it, until `stepQueue` or `releaseQueue`. A
   * hold outlives resets and reboots.
   * @param queue its name or index
   * @throws UsageError when there is no such queue, or userspace does not serve it (E_HELD)
   */
  async holdQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.holdQueue(index));
  }

  /** Lets the device take one more buffer from a queue, and holds it; otherwise as `holdQueue`. */
  async stepQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.stepQueue(index));
  }

  /** Releases a held queue. @throws as `holdQueue` */
  async releaseQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.releaseQueue(index));
  }

  /**
   * Serves a device of your own with its file's current code. The driver is asked to reset the
   * device; if it does not, its queues continue to be served.
   * @param device its name: `own0`
   * @throws UsageError when it has no file, or the file is unusable: everything is then as it was before
   */
  async reloadDevice(device: string): Promise<void> {
    await this.#devices.find(device).reloadCode();
  }

  /** Loads the guest and lets it run. @throws UsageError when it cannot be loaded */
  async start(): Promise<void> {
    this.#expect('start', 'created');
    this.#state = 'starting';
    // Unread output is dropped: it must not stop the guest.
    this.#consoles.flow();
    for (const text of this.#notices.splice(0)) this.emit('log', text);
    await this.#steps.run(async () => {
      try {
        await this.#powerOn();
        this.#state = 'running';
      } catch (error) {
        this.#state = 'created';
        throw error;
      }
    });
  }

  /** Resolves when the run has ended, with how it ended. */
  wait(): Promise<MachineExit> {
    return this.#exit;
  }

  /**
   * Starts a command in the guest through its agent; waits for the agent if it is not up yet.
   * @param argv program and arguments; no shell
   */
  spawn(argv: readonly string[], options: SpawnOptions = {}): GuestProcess {
    return this.#connectAgent().spawn(argv, options);
  }

  /**
   * Runs a command in the guest to its end.
   * @throws UsageError when it cannot be started, or writes more than `maxBuffer` (E_MAX_BUFFER);
   *   PeerError when the guest (E_GUEST_ENDED) or its agent (E_AGENT_*) ends before
   */
  exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    return this.#connectAgent().exec(argv, options);
  }

  /** Resolves when the guest's agent answers. */
  ready(): Promise<void> {
    return this.#connectAgent().ready();
  }

  /** Quiesces vCPUs and devices; the guest notices only that time has passed. */
  async pause(): Promise<void> {
    this.#expect('pause', 'running');
    this.#state = 'paused';
    await this.#steps.run(async () => this.#cycle?.pause());
  }

  /** Resumes where `pause` stopped. */
  async resume(): Promise<void> {
    this.#expect('resume', 'paused');
    this.#state = 'running';
    await this.#steps.run(async () => this.#cycle?.resume());
  }

  /**
   * Presses the power button (ACPI). Linux powers off when a program in it listens: systemd-logind,
   * acpid, or the init of nodevmm's own guests; else nothing happens.
   * @throws UsageError when the machine does not run
   */
  pressPowerButton(): void {
    this.#expect('press the power button of', 'running');
    this.#cycle?.pressPowerButton();
    this.#buttonPressed = true;
  }

  /** Ends the run as if the power failed. Does nothing when it has ended. */
  async stop(): Promise<void> {
    if (this.#state === 'created') this.#finish({ reason: 'stopped' });
    await this.#steps.run(async () => {
      // A start that failed meanwhile leaves nothing to power off.
      if (this.#state === 'created') this.#finish({ reason: 'stopped' });
      else await this.#powerOff({ reason: 'stopped' });
    });
  }

  /** Sets the guest's idea of the size of the terminal that shows its console. */
  resizeConsole(columns: number, rows: number): void {
    this.#consoles.device.resize(columns, rows);
  }

  /** Exits to userspace of all vCPUs since power-on, by KVM_EXIT_* number. */
  exitCounts(): number[] {
    return this.#cycle?.exitCounts() ?? [];
  }

  /**
   * KVM's counters for all vCPUs since power-on, by KVM's own names, such as `exits` and `halt_exits`
   * (KVM API 4.133). Empty while no guest runs, and before Linux 5.14.
   */
  statistics(): ReadonlyMap<string, number> {
    return this.#cycle?.statistics() ?? new Map();
  }

  /** Bytes of guest output that were dropped unread. */
  get droppedOutput(): { readonly console: number; readonly serial: number } {
    return this.#consoles.dropped;
  }

  /** The trace so far; undefined without the option `trace`. */
  get traceSummary(): TraceSummary | undefined {
    return this.#observer.summary;
  }

  /** The rules of virtio that were broken so far; empty without the option `check`. */
  get breaches(): readonly RuleBreach[] {
    return this.#observer.breaches;
  }

  /** Stops the machine and releases everything: memory, files, taps, threads. */
  async close(): Promise<void> {
    if (this.#state === 'disposed') return;
    await this.stop();
    this.#state = 'disposed';
    this.#consoles.serial.push(null);
    this.#consoles.serial.destroy();
    await this.#owned.disposeAsync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #withQueue(
    device: string,
    queue: string,
    change: (found: VirtioMachineDevice, index: number) => Promise<void>,
  ): Promise<void> {
    this.#expectLife();
    const { device: found, index } = this.#devices.findQueue(device, queue);
    await this.#steps.run(() => change(found, index));
  }

  #connectAgent(): AgentClient {
    if (this.#agent === undefined) {
      throw new UsageError('E_AGENT', 'this machine has no agent port; create it with one');
    }
    this.#expectLife();
    return this.#agent.connect();
  }

  async #powerOn(): Promise<void> {
    this.#consoles.tail.clear();
    const plan = {
      ...this.#options,
      kvm: this.#kvm,
      memory: this.#memory,
      devices: this.#devices.all,
      serial: this.#consoles.serial,
      observer: this.#observer,
    };
    const cycle = await PowerCycle.start(plan, (exit) => {
      void this.#steps.run(async () => {
        if (this.#cycle === cycle) await this.#guestEnded(exit);
      });
    });
    this.#cycle = cycle;
  }

  async #guestEnded(exit: MachineExit): Promise<void> {
    this.#consoles.serial.collect();
    const { panic } = this.#consoles.tail;
    if (exit.reason === 'panic' || (exit.reason === 'reboot' && panic !== undefined)) {
      await this.#powerOff({ reason: 'panic', ...(panic === undefined ? {} : { detail: panic }) });
    } else if (exit.reason === 'reboot' && this.#options.onReboot === 'restart') {
      await this.#reboot();
    } else {
      const asked = exit.reason === 'power-off' && this.#buttonPressed;
      await this.#powerOff(asked ? { ...exit, asked } : exit);
    }
  }

  async #reboot(): Promise<void> {
    await this.#closeCycle({ reason: 'reboot' });
    try {
      await this.#powerOn();
      if (this.#state === 'paused') await this.#cycle?.pause();
      this.emit('reboot');
    } catch (error) {
      this.#finish({
        reason: 'internal-error',
        detail: `the reboot failed: ${messageOf(error)}`,
      });
    }
  }

  async #powerOff(exit: MachineExit): Promise<void> {
    if (this.#cycle === undefined) return;
    try {
      await this.#closeCycle(exit);
    } finally {
      this.#finish(exit);
    }
  }

  async #closeCycle(exit: MachineExit): Promise<void> {
    const cycle = this.#cycle;
    this.#cycle = undefined;
    this.#agent?.guestEnded(guestEnded(exit));
    await cycle?.close();
  }

  #finish(exit: MachineExit): void {
    this.#state = 'ended';
    this.#observer[Symbol.dispose]();
    this.#agent?.guestEnded(guestEnded(exit));
    this.#resolveExit(exit);
    this.emit('exit', exit);
  }

  /** Guests and peers can influence the text. */
  #log(text: string): void {
    if (this.#state === 'created') this.#notices.push(printable(text));
    else this.emit('log', printable(text));
  }

  #expectLife(): void {
    if (this.#state !== 'ended' && this.#state !== 'disposed') return;
    throw new UsageError('E_STATE', 'the machine is not running; start a new one');
  }

  #expect(what: string, state: MachineState): void {
    if (this.#state === state) return;
    throw new UsageError(
      'E_STATE',
      `cannot ${what} a machine that is ${this.#state}; it must be ${state}`,
    );
  }
}

/** In reverse order; a failure does not keep the others from closing. */
async function closeAll(devices: readonly MachineDevice[]): Promise<void> {
  await using stack = new AsyncCleanupStack();
  for (const device of devices) stack.defer(() => device.close());
}

/** Only memory with a file can be shared with other processes; the rest is faster (docs/datapath.md). */
function ramBacking({ hugePages, devices }: ResolvedOptions): RamBacking {
  if (hugePages) return 'hugetlb';
  return devices.some(({ backend }) => backend.sharesMemory) ? 'memfd' : 'anonymous';
}
