/** The public API: a virtual machine from creation to disposal. */
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import type { AgentClient, ExecOptions, ExecResult } from '../agent/client.ts';
import type { GuestProcess, SpawnOptions } from '../agent/command.ts';
import { StepQueue } from '../datapath/step-queue.ts';
import { InternalError, messageOf, NodeVmmError, UsageError } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import { Kvm } from '../kvm/kvm.ts';
import { Ram, type RamBacking } from '../memory/ram.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import { Consoles } from './consoles.ts';
import { type CreatedDevice, createDevices } from './devices/create-devices.ts';
import type { DatapathName } from './devices/datapath-choice.ts';
import { MachineDevices } from './devices/machine-devices.ts';
import { ownDevice } from './devices/plugged-device.ts';
import type { GateOrder } from './devices/queue-holds.ts';
import { createVhostUserDevices } from './devices/vhost-user-devices.ts';
import { GuestAgent, guestEnded } from './guest-agent.ts';
import type { InspectFilter, MachineInspection } from './inspect.ts';
import type { MachineState, VirtualMachineEvents } from './machine-events.ts';
import { MachineObserver, type RuleBreach } from './machine-observer.ts';
import type { MachineExit, MachineOptions } from './options.ts';
import { PowerCycle } from './power-cycle.ts';
import { type ResolvedOptions, resolveOptions } from './resolve-options.ts';
import { createOwnDevices } from './user-devices/user-devices.ts';

/**
 * A virtual machine. `await using vm = await VirtualMachine.create({...})` releases everything
 * that it holds, whatever happens in between.
 */
export class VirtualMachine extends EventEmitter<VirtualMachineEvents> implements AsyncDisposable {
  /**
   * The guest's virtio console, hvc0: write to type, read what it prints. The guest never waits for
   * a reader: beyond 1 MiB that waits to be read, output is dropped (see `droppedOutput`), and a
   * line in the stream tells how much.
   */
  readonly console: Duplex;
  /** The guest's first serial port, ttyS0; read or dropped as `console`. */
  readonly serial: Duplex;
  readonly #options: ResolvedOptions;
  readonly #kvm: Kvm;
  readonly #ram: Ram;
  readonly #consoles: Consoles;
  readonly #devices: MachineDevices;
  /** What is to be told once somebody can listen. */
  readonly #notices: string[] = [];
  #observer: MachineObserver | undefined;
  readonly #exit: Promise<MachineExit>;
  #resolveExit: (exit: MachineExit) => void = () => {};
  #state: MachineState = 'created';
  #cycle: PowerCycle | undefined;
  readonly #agent: GuestAgent | undefined;
  /** Since the guest's power-on. */
  #buttonPressed = false;
  /** What changes the machine's state. */
  readonly #steps = new StepQueue();

  /**
   * Opens KVM, takes the memory, opens disks and taps. The guest does not run yet.
   * @throws UsageError or HostError, in one line, when something of it cannot be had; nothing
   *   stays behind then
   */
  static async create(options: MachineOptions): Promise<VirtualMachine> {
    const resolved = resolveOptions(options);
    const kvm = Kvm.open();
    let ram: Ram | undefined;
    let devices: CreatedDevice[] = [];
    let vm: VirtualMachine | undefined;
    try {
      if (resolved.cpus > kvm.maxVcpus) {
        throw new UsageError(
          'E_CPUS',
          `this KVM runs at most ${kvm.maxVcpus} vCPUs, not ${resolved.cpus}; ask for fewer`,
        );
      }
      ram = new Ram(resolved.memory, ramBacking(resolved));
      devices = createDevices(resolved);
      devices.push(...(await createOwnDevices(resolved.devices, resolved.transport)));
      devices.push(...(await createVhostUserDevices(resolved)));
      vm = new VirtualMachine(resolved, kvm, ram, devices);
      vm.#watch();
      await vm.#placeDevices(devices);
      return vm;
    } catch (error) {
      if (vm !== undefined) await vm[Symbol.asyncDispose]();
      else {
        for (const { device } of devices) device.close();
        ram?.[Symbol.dispose]();
        kvm[Symbol.dispose]();
      }
      throw error;
    }
  }

  private constructor(
    options: ResolvedOptions,
    kvm: Kvm,
    ram: Ram,
    devices: readonly CreatedDevice[],
  ) {
    super();
    this.#options = options;
    this.#kvm = kvm;
    this.#ram = ram;
    const log = (text: string): void => this.#log(text);
    this.#consoles = new Consoles(options.agent, log);
    this.console = this.#consoles.console;
    this.serial = this.#consoles.serial;
    const { agentPort } = this.#consoles;
    this.#agent = agentPort && new GuestAgent(agentPort);
    const console: CreatedDevice = {
      kind: 'virtio',
      device: this.#consoles.device,
      transport: options.console.transport ?? options.transport,
      ring: options.console.ring ?? {},
      vhost: 'off',
    };
    this.#devices = new MachineDevices([console, ...devices].map((made) => ownDevice(made, log)));
    this.#exit = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
  }

  get state(): MachineState {
    return this.#state;
  }

  /** Where each virtio device's queues are served, by the device's name. */
  get datapaths(): ReadonlyMap<string, DatapathName> {
    return this.#devices.datapaths;
  }

  /**
   * Has a device's queues served elsewhere, also while they are busy: each goes on where it stood.
   * @param device its name: `net0`
   * @throws UsageError when there is no such device, or that place cannot serve it; HostError when
   *   the host fails. All is then as it was before.
   */
  async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    this.#expectLife();
    const owner = this.#devices.find(device);
    await this.#steps.run(() => owner.moveTo(datapath));
  }

  /**
   * Plugs the cable of a network interface in or pulls it, on both sides.
   * @param device its name: `net0`
   * @throws UsageError when there is no such network interface
   */
  setLink(device: string, up: boolean): void {
    this.#devices.setLink(device, up);
  }

  /** The virtio devices as they are now: registers, features, rings. Changes nothing. */
  async inspect(filter: InspectFilter = {}): Promise<MachineInspection> {
    this.#expectLife();
    return { state: this.#state, devices: await this.#devices.inspect(this.#ram.memory, filter) };
  }

  /**
   * Holds a queue, so that its device takes no buffer from it; lets one pass; or lets it go on.
   * @param queue its name or index
   * @throws UsageError when there is no such queue, or the host kernel serves it
   */
  async gate(device: string, queue: string, order: GateOrder): Promise<void> {
    this.#expectLife();
    await this.#steps.run(() => this.#devices.gate(device, queue, order));
  }

  /**
   * Has a device of your own served by what its file says now. The driver is asked to reset the
   * device; one that does not finds its queues served on.
   * @param device its name: `own0`
   * @throws UsageError when it has no file, or that cannot be: all is then as it was before
   */
  async reloadDevice(device: string): Promise<void> {
    await this.#devices.reload(device);
  }

  /** Loads the guest and lets it run. @throws UsageError when it cannot be loaded */
  async start(): Promise<void> {
    this.#expect('start', 'created');
    this.#state = 'starting';
    // Output that nobody listens to is dropped: it must not stop the guest.
    this.#consoles.flow();
    for (const text of this.#notices.splice(0)) this.#log(text);
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

  /** Resolves when the run has ended, with how it did. */
  wait(): Promise<MachineExit> {
    return this.#exit;
  }

  /**
   * Starts a command in the guest, by its agent; waits for the agent when it is not up yet.
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

  /** Brings vCPUs and devices to rest; the guest notices nothing but the time. */
  async pause(): Promise<void> {
    this.#expect('pause', 'running');
    this.#state = 'paused';
    await this.#steps.run(async () => this.#cycle?.pause());
  }

  /** Goes on where `pause` stopped. */
  async resume(): Promise<void> {
    this.#expect('resume', 'paused');
    this.#state = 'running';
    await this.#steps.run(async () => this.#cycle?.resume());
  }

  /**
   * Presses the power button (ACPI). Linux powers off when something in it listens: systemd-logind,
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

  /** Tells the guest the size of the terminal that shows its console. */
  resizeConsole(columns: number, rows: number): void {
    this.#consoles.device.resize(columns, rows);
  }

  /** Exits to userspace of all vCPUs since power-on, by KVM_EXIT_* number. */
  exitCounts(): number[] {
    return this.#cycle?.exitCounts() ?? [];
  }

  /**
   * What KVM counted of all vCPUs since power-on, by KVM's own names, as `exits` and `halt_exits`
   * (KVM API 4.133). Empty while no guest runs, and before Linux 5.14.
   */
  statistics(): ReadonlyMap<string, number> {
    return this.#cycle?.statistics() ?? new Map();
  }

  /** Bytes that the guest printed and that were dropped, because nobody read them. */
  get droppedOutput(): { readonly console: number; readonly serial: number } {
    return this.#consoles.dropped;
  }

  /** What the trace has seen so far; undefined without the option `trace`. */
  get traceSummary(): TraceSummary | undefined {
    return this.#observer?.summary;
  }

  /** The rules of virtio that were broken so far; none are looked for without the option `check`. */
  get breaches(): readonly RuleBreach[] {
    return this.#observer?.breaches ?? [];
  }

  /** Stops the machine and releases everything: memory, files, taps, threads. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'disposed') return;
    await this.stop();
    this.#state = 'disposed';
    this.#observer?.[Symbol.dispose]();
    for (const { owner } of this.#devices.all.toReversed()) await owner.close();
    this.#consoles.serial.push(null);
    this.#consoles.serial.destroy();
    this.#ram[Symbol.dispose]();
    this.#kvm[Symbol.dispose]();
  }
  /** Has those that the options ask for watch the machine. @throws UsageError when a file cannot be made */
  #watch(): void {
    const log = (text: string): void => this.#log(text);
    this.#observer = new MachineObserver(this.#options, this.#devices.all, log, (breach) => {
      this.emit('breach', breach);
      const queue = breach.queue === undefined ? '' : `, queue ${breach.queue}`;
      const dump = breach.dump.map((line) => `\n  ${line}`).join('');
      log(`${breach.device}${queue}: the ${breach.side} broke a rule: ${breach.text}${dump}`);
    });
  }

  /** Before the guest runs: what is asked of vhost shows in the features that are offered. */
  async #placeDevices(devices: readonly CreatedDevice[]): Promise<void> {
    for (const created of devices) {
      if (created.kind !== 'virtio' || created.vhost === 'off') continue;
      const { device, vhost } = created;
      try {
        await this.moveDatapath(device.name, 'vhost');
      } catch (error) {
        if (vhost === 'on' || !(error instanceof NodeVmmError)) throw error;
        this.#notices.push(`${device.name}: served in userspace: ${error.message}`);
      }
    }
  }

  #connectAgent(): AgentClient {
    if (this.#agent === undefined) {
      throw new UsageError('E_AGENT', 'this machine has no agent port; create it with one');
    }
    this.#expectLife();
    return this.#agent.connect();
  }

  async #powerOn(): Promise<void> {
    const observer = this.#observer;
    if (observer === undefined) throw new InternalError('a machine that nobody made');
    this.#consoles.tail.clear();
    const plan = {
      ...this.#options,
      kvm: this.#kvm,
      memory: this.#ram.memory,
      devices: this.#devices.all,
      serial: this.#consoles.serial,
      observer,
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
    this.#observer?.[Symbol.dispose]();
    this.#agent?.guestEnded(guestEnded(exit));
    this.#resolveExit(exit);
    this.emit('exit', exit);
  }

  /** Guests and peers have a part in what is said. */
  #log(text: string): void {
    this.emit('log', printable(text));
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

/** Only memory with a file can be seen by other processes; the rest is faster (docs/datapath.md). */
function ramBacking({ hugePages, vhostUser }: ResolvedOptions): RamBacking {
  if (hugePages) return 'hugetlb';
  return vhostUser.length === 0 ? 'anonymous' : 'memfd';
}
