/** A machine in this process: its parts, its states, its power cycles. */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { AgentClient } from '../agent/client.ts';
import { StepQueue } from '../datapath/datapath.ts';
import { AsyncCleanupStack } from '../host/cleanup-stack.ts';
import { messageOf, UsageError } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import { exitName } from '../kvm/exit-names.ts';
import { Kvm } from '../kvm/kvm.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { Ram, type RamBacking } from '../memory/ram.ts';
import { PM1_POWER_BUTTON, PM1_SLEEP_BUTTON } from '../platform/pm1.ts';
import { BalloonDevice } from '../virtio/device/balloon/balloon.ts';
import { iommuType } from '../virtio/device/iommu/iommu.ts';
import { MemDevice } from '../virtio/device/mem/mem.ts';
import { PmemDevice } from '../virtio/device/pmem/pmem.ts';
import { type VsockOptions, vsockType } from '../virtio/device/vsock/vsock-type.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import { balloonCalls, MachineBalloon } from './balloon.ts';
import { type BootFiles, bootFiles, checkKvm } from './boot-image.ts';
import { Consoles } from './consoles.ts';
import { ControlServer } from './control/server.ts';
import { CpuHotplug } from './cpu-hotplug.ts';
import { DeviceRequests, type RequestedParts } from './device-requests.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { closeAll, createDevices, MachineDevices } from './devices/machine-devices.ts';
import { VirtioMachineDevice } from './devices/virtio-device.ts';
import { MachineGrowth } from './growing-ram.ts';
import { GuestAgent, guestEnded } from './guest-agent.ts';
import { chooseRam } from './guest-ram.ts';
import { Hotplug } from './hotplug.ts';
import type { InspectFilter, MachineInspection } from './inspect.ts';
import { MachineIommu } from './iommu.ts';
import type { DroppedOutput, MachineMetrics, MachineState } from './machine.ts';
import { MachineObserver, type RuleBreach } from './machine-observer.ts';
import { growthOf, type MemoryState, memoryState, requestMemory } from './memory-size.ts';
import type { MachineExit, MachineOptions } from './options.ts';
import { type CycleEvents, PowerCycle, type WakeUp } from './power-cycle.ts';
import { type ResolvedOptions, resolveOptions } from './resolve-options.ts';
import { connectVsock } from './vsock-connection.ts';

/** A machine that runs on this host's KVM, in this process. */
export class LocalMachine extends DeviceRequests {
  override readonly console: Duplex;
  override readonly serial: Duplex;
  protected override readonly requested: RequestedParts;
  override readonly balloon: MachineBalloon;
  readonly #options: ResolvedOptions & BootFiles;
  readonly #kvm: Kvm;
  readonly #memory: GuestMemory;
  readonly #consoles: Consoles;
  readonly #devices: MachineDevices;
  readonly #hotplug: Hotplug;
  readonly #cpus: CpuHotplug;
  /** Lines from before a listener could be added. */
  readonly #notices: string[] = [];
  readonly #observer: MachineObserver;
  #iommu: MachineIommu | undefined;
  #growth: MachineGrowth | undefined;
  #owned = new AsyncCleanupStack();
  readonly #exit: Promise<MachineExit>;
  #resolveExit: (exit: MachineExit) => void = () => {};
  #state: MachineState = 'created';
  #cycle: PowerCycle | undefined;
  readonly #agent: GuestAgent | undefined;
  /** Since the guest's power-on. */
  #buttonPressed = false;
  #generationId = randomBytes(16);
  /** Serializes changes of the machine's state. */
  readonly #steps = new StepQueue();

  /** As `VirtualMachine.create`, on this host's KVM. */
  static async create(options: MachineOptions): Promise<LocalMachine> {
    const resolved = resolveOptions(options);
    await using stack = new AsyncCleanupStack();
    const kvm = stack.use(Kvm.open());
    const mostCpus = resolved.maxCpus ?? resolved.cpus;
    if (mostCpus > kvm.maxVcpus) {
      throw new UsageError(
        'E_CPUS',
        `this KVM supports at most ${kvm.maxVcpus} vCPUs, not ${mostCpus}`,
        'reduce cpus',
      );
    }
    checkKvm(resolved);
    const bootable = { ...resolved, ...(await bootFiles(resolved, options.onProgress)) };
    const backing = chooseRam(resolved);
    let vm: LocalMachine | undefined;
    const log = (text: string): void => {
      if (vm !== undefined) vm.#log(text);
    };
    const devices: MachineDevice[] = [];
    // Device threads end before their addresses and RAM do.
    let ram: Ram | undefined;
    stack.defer(() => ram?.close());
    let iommu: MachineIommu | undefined;
    stack.defer(() => iommu?.close());
    stack.defer(() => closeAll(vm === undefined ? devices : vm.#devices.all));
    await createDevices(resolved.devices, resolved.memory, devices, log);
    const pmems = new MachineDevices(devices).allOfClass(PmemDevice);
    const growth = growthOf(resolved);
    ram = new Ram(resolved.memory, backing, true, { growth, files: pmems.map(({ file }) => file) });
    for (const [index, pmem] of pmems.entries()) pmem.place(ram.memory.share.files?.[index]);
    vm = new LocalMachine(bootable, kvm, { memory: ram.memory, backing }, devices, log);
    stack.use(vm.#observer);
    iommu = MachineIommu.of(devices, ram.memory, log);
    vm.#iommu = iommu;
    const mem = vm.#devices.ofClass(MemDevice);
    if (mem !== undefined) vm.#growth = stack.use(new MachineGrowth(ram.memory, mem, log));
    for (const device of devices) await device.prepare?.();
    if (resolved.name !== undefined) stack.use(await ControlServer.open(vm, resolved.name));
    vm.#owned = stack.move();
    return vm;
  }

  /** @param devices gets the console as well, as the first */
  private constructor(
    options: ResolvedOptions & BootFiles,
    kvm: Kvm,
    ram: { readonly memory: GuestMemory; readonly backing: RamBacking },
    devices: MachineDevice[],
    log: (text: string) => void,
  ) {
    super();
    this.#options = options;
    this.#kvm = kvm;
    this.#memory = ram.memory;
    this.#consoles = new Consoles(options.agent, log, () => this.#wakeBy(0));
    this.console = this.#consoles.console;
    this.serial = this.#consoles.serial;
    const { agentPort } = this.#consoles;
    this.#agent = agentPort && new GuestAgent(agentPort);
    const carried = { transport: options.transport, ...options.console };
    devices.unshift(new VirtioMachineDevice(this.#consoles.device, carried, log));
    this.#devices = new MachineDevices(devices);
    const balloon = this.#devices.ofClass(BalloonDevice);
    this.balloon = new MachineBalloon(balloonCalls(balloon, options.memory), log);
    this.#observer = new MachineObserver(options, devices, log, (breach) => {
      this.emit('breach', breach);
      const queue = breach.queue === undefined ? '' : `, queue ${breach.queue}`;
      const dump = breach.dump.map((line) => `\n  ${line}`).join('');
      log(`${breach.device}${queue}: the ${breach.side} broke a rule: ${breach.text}${dump}`);
    });
    this.#hotplug = new Hotplug({
      devices: this.#devices,
      observer: this.#observer,
      steps: this.#steps,
      ram: ram.backing,
      memory: options.memory,
      hasIommu: options.devices.some(({ type }) => type === iommuType),
      log,
      cycle: () => this.#cycle,
      isPaused: () => this.#state === 'paused',
    });
    this.#cpus = new CpuHotplug({
      cpus: options.cpus,
      maxCpus: options.maxCpus,
      steps: this.#steps,
      log,
      cycle: () => this.#cycle,
      isPaused: () => this.#state === 'paused',
    });
    this.requested = {
      devices: this.#devices,
      hotplug: this.#hotplug,
      cpus: this.#cpus,
      steps: this.#steps,
    };
    this.#exit = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
  }

  override get state(): MachineState {
    return this.#state;
  }

  override get memory(): MemoryState {
    return memoryState(this.#options, this.#devices.ofClass(MemDevice));
  }

  override async setMemory(bytes: number): Promise<void> {
    this.expectAwake();
    requestMemory(this.#options, this.#devices.ofClass(MemDevice), bytes);
  }

  override async inspect(filter: InspectFilter = {}): Promise<MachineInspection> {
    this.expectLife();
    const devices = await this.#devices.inspect(this.#memory, filter);
    const iommu = this.#iommu?.inspect();
    return {
      state: this.#state,
      devices,
      functions: this.#devices.inspectFunctions(),
      ...(iommu === undefined ? {} : { iommu }),
    };
  }

  override async start(): Promise<void> {
    this.#expect('start', 'created');
    this.#enter('starting');
    // Unread output is dropped: it must not stop the guest.
    this.#consoles.flow();
    for (const text of this.#notices.splice(0)) this.emit('log', text);
    await this.#steps.run(async () => {
      try {
        await this.#powerOn();
        this.#enter('running');
      } catch (error) {
        this.#enter('created');
        throw error;
      }
    });
  }

  override wait(): Promise<MachineExit> {
    return this.#exit;
  }

  override async pause(): Promise<void> {
    this.#expect('pause', 'running');
    this.#enter('paused');
    await this.#steps.run(async () => this.#cycle?.pause());
  }

  override async resume(): Promise<void> {
    this.#expect('resume', 'paused');
    this.#enter('running');
    await this.#steps.run(async () => this.#cycle?.resume());
  }

  override async pressPowerButton(): Promise<void> {
    this.#press('power', PM1_POWER_BUTTON);
    this.#buttonPressed = true;
  }

  override async pressSleepButton(): Promise<void> {
    this.#press('sleep', PM1_SLEEP_BUTTON);
  }

  override async wake(): Promise<void> {
    this.#expect('wake', 'suspended');
    await this.#steps.run(() => this.#wake(0));
  }

  override async renewGeneration(): Promise<void> {
    this.#expect('renew the generation of', 'running');
    this.#generationId = randomBytes(16);
    this.#cycle?.renewGeneration(this.#generationId);
  }

  override async stop(): Promise<void> {
    if (this.#state === 'created') this.#finish({ reason: 'stopped' });
    await this.#steps.run(async () => {
      // A start that failed meanwhile leaves nothing to power off.
      if (this.#state === 'created') this.#finish({ reason: 'stopped' });
      else await this.#powerOff({ reason: 'stopped' });
    });
  }

  override resizeConsole(columns: number, rows: number): void {
    this.#consoles.device.resize(columns, rows);
  }

  /** Exits to userspace of all vCPUs since power-on, by KVM_EXIT_* number. */
  exitCounts(): number[] {
    return this.#cycle?.exitCounts() ?? [];
  }

  override async metrics(): Promise<MachineMetrics> {
    const happened = [...this.exitCounts().entries()].filter(([, count]) => count > 0);
    return {
      state: this.#state,
      exits: Object.fromEntries(happened.map(([reason, count]) => [exitName(reason), count])),
      kvm: Object.fromEntries(this.#cycle?.statistics() ?? []),
      droppedOutput: this.droppedOutput,
      breaches: this.breaches.length,
    };
  }

  override get droppedOutput(): DroppedOutput {
    return this.#consoles.dropped;
  }

  override async traceSummary(): Promise<TraceSummary | undefined> {
    return this.#observer.summary;
  }

  override get breaches(): readonly RuleBreach[] {
    return this.#observer.breaches;
  }

  /** Calls back with all output of a console from now on. @returns ends that */
  watchOutput(console: 'console' | 'serial', see: (bytes: Uint8Array) => void): () => void {
    return this.#consoles.watch(console, see);
  }

  /** Gives a client in another process a conversation with the guest's agent, until its stream ends. */
  async shareAgent(client: Duplex): Promise<void> {
    await this.#agentOrThrow().share(client);
  }

  override async close(): Promise<void> {
    if (this.#state === 'disposed') return;
    await this.stop();
    this.#enter('disposed');
    this.#consoles.serial.push(null);
    this.#consoles.serial.destroy();
    await this.#owned.disposeAsync();
  }

  override connect(port: number): Duplex {
    this.expectLife();
    const device = this.#options.devices.find(({ type }) => type === vsockType);
    const datapath = device && this.datapaths.get(device.context.name);
    return connectVsock(device?.options as VsockOptions | undefined, datapath, port);
  }

  protected override connectAgent(): AgentClient {
    const agent = this.#agentOrThrow();
    this.expectLife();
    return agent.connect();
  }

  #agentOrThrow(): GuestAgent {
    if (this.#agent !== undefined) return this.#agent;
    throw new UsageError('E_AGENT', 'this machine has no agent port', 'create it with one');
  }

  async #powerOn(wakeUp?: WakeUp): Promise<void> {
    this.#consoles.tail.clear();
    const plan = {
      ...this.#options,
      cpus: this.#cpus.count,
      kvm: this.#kvm,
      memory: this.#memory,
      devices: this.#devices,
      serial: this.#consoles.serial,
      observer: this.#observer,
      iommu: this.#iommu,
      generationId: this.#generationId,
      growth: this.#growth,
    };
    const now = (step: () => Promise<void>): void => {
      void this.#steps.run(async () => {
        if (this.#cycle === cycle) await step();
      });
    };
    const events: CycleEvents = {
      ended: (exit) => now(() => this.#guestEnded(exit)),
      suspended: () => now(() => this.#suspend()),
      wakeEvent: (cause) => this.#wakeBy(cause),
      ejected: (device) => {
        this.#hotplug.ejected(device).catch((error) => this.#log(messageOf(error)));
      },
      cpuEjected: (cpu) => {
        this.#cpus.ejected(cpu).catch((error) => this.#log(messageOf(error)));
      },
    };
    const cycle = await PowerCycle.start(plan, events, wakeUp);
    this.#cycle = cycle;
  }

  #press(name: string, button: number): void {
    if (this.#state !== 'suspended') this.#expect(`press the ${name} button of`, 'running');
    this.#cycle?.press(button);
  }

  async #suspend(): Promise<void> {
    await this.#cycle?.pause();
    this.#enter('suspended');
  }

  /** Wakes the guest if it sleeps. @param cause PM1_* */
  #wakeBy(cause: number): void {
    if (this.#state === 'suspended') void this.#steps.run(() => this.#wake(cause));
  }

  async #wake(cause: number): Promise<void> {
    if (this.#state !== 'suspended') return;
    const wakeUp = this.#cycle?.wakeUp(cause);
    // Without a way back, firmware boots the system again.
    if (wakeUp === undefined) {
      await this.#guestEnded({ reason: 'reboot' });
      return;
    }
    try {
      const cycle = this.#cycle;
      this.#cycle = undefined;
      await cycle?.close();
      await this.#resumeDevices();
      await this.#powerOn(wakeUp);
      this.#enter('running');
    } catch (error) {
      this.#finish({
        reason: 'internal-error',
        detail: `waking up failed: ${messageOf(error)}`,
      });
    }
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
      if (this.#state === 'suspended') await this.#resumeDevices();
      await this.#powerOn();
      if (this.#state === 'paused') await this.#cycle?.pause();
      else if (this.#state === 'suspended') this.#enter('running');
      this.emit('reboot');
    } catch (error) {
      this.#finish({
        reason: 'internal-error',
        detail: `the reboot failed: ${messageOf(error)}`,
      });
    }
  }

  /** Those of a guest that slept, which is gone. */
  async #resumeDevices(): Promise<void> {
    for (const device of this.#devices.all) await device.resume();
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
    // Before the next command, which waits for the next guest's agent.
    this.#consoles.device.closePorts();
    await cycle?.close();
    await this.#hotplug.poweredOff();
    this.#cpus.poweredOff();
  }

  #finish(exit: MachineExit): void {
    this.#enter('ended');
    this.#observer[Symbol.dispose]();
    this.#agent?.guestEnded(guestEnded(exit));
    this.#resolveExit(exit);
    this.emit('exit', exit);
  }

  #enter(state: MachineState): void {
    this.#state = state;
    this.emit('state', state);
  }

  /** Guests and peers can influence the text. */
  #log(text: string): void {
    if (this.#state === 'created') this.#notices.push(printable(text));
    else this.emit('log', printable(text));
  }

  #expect(what: string, state: MachineState): void {
    if (this.#state === state) return;
    throw new UsageError(
      'E_STATE',
      `cannot ${what} a machine that is ${this.#state}`,
      `it must be ${state}`,
    );
  }
}
