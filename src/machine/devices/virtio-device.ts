/**
 * A virtio device of a machine: acts on the driver's writes to its registers by starting and
 * stopping the datapath that serves its queues. It outlives resets and reboots.
 */
import { featureSet, VIRTIO_F_ACCESS_PLATFORM } from '../../abi/virtio-ring.ts';
import type { Activation, DatapathEvents } from '../../datapath/datapath.ts';
import { InternalError, messageOf, NodeVmmError, UsageError } from '../../host/errors.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { DeniedAccess, GuestMemory, GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { IovaSpace } from '../../memory/iova-space.ts';
import type { DeviceHost, VirtioDevice } from '../../virtio/device.ts';
import type {
  IommuMode,
  PollMode,
  RingOptions,
  TransportName,
  VhostMode,
} from '../../virtio/device-type.ts';
import type { Breach, Observation } from '../../virtio/observe/observation.ts';
import { whomOf } from '../../virtio/observe/trace/trace-record.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';
import {
  CHANGE_CONFIG,
  CHANGE_DRIVER_OK,
  CHANGE_INTERRUPTS,
  CHANGE_QUEUES,
  CHANGE_RESET,
} from '../../virtio/transport/device-registers.ts';
import { addressText, type DeviceMessage } from '../board/board-devices.ts';
import type { DeviceCode } from '../user-devices/device-code.ts';
import { DeviceSlot } from './device-slot.ts';
import { type MachineDevice, type PluggedBoard, SteppedDevice } from './machine-device.ts';
import {
  type Continuing,
  type DatapathName,
  type DatapathTable,
  datapathsOf,
  QueueService,
} from './queue-service.ts';
import type { DeviceResources } from './resource-allocator.ts';
import { deviceShape, planVirtio, type VirtioPlan } from './virtio-plan.ts';

const ACCESS_PLATFORM = featureSet(VIRTIO_F_ACCESS_PLATFORM);
/**
 * Device types (virtio 1.3 §5) that a machine has for as long as it runs: those that it talks through (console, socket device), and those
 * that other devices or its RAM depend on (IOMMU, balloon, memory device, persistent memory).
 */
const LASTING: readonly number[] = [3, 5, 19, 23, 24, 27];
/** How long a driver may take to reset a device whose code changed. */
const RESET_PATIENCE_MS = 2000;

/** Options of a device besides the device itself. */
export interface VirtioDeviceOptions {
  readonly transport: TransportName;
  readonly ring?: RingOptions;
  /** Default `off`. */
  readonly vhost?: VhostMode;
  /** Default `off`. */
  readonly poll?: PollMode;
  /** Default `auto`. */
  readonly iommu?: IommuMode;
  /** Its code, when that may change while it runs. */
  readonly code?: DeviceCode;
}

interface Translated {
  readonly space: IovaSpace;
  readonly denied: (access: DeniedAccess) => void;
}

/** A virtio device of a machine. */
export class VirtioMachineDevice extends SteppedDevice implements MachineDevice, DeviceHost {
  readonly device: VirtioDevice;
  readonly #options: VirtioDeviceOptions;
  /** A driver can provoke most of these lines at will. */
  readonly #lines: LogLimit;
  readonly #queues: QueueService;
  #plan: VirtioPlan | undefined;
  /** Behind an IOMMU: the addresses that it uses, and the listener for those that it may not use. */
  #translated: Translated | undefined;
  #slot: DeviceSlot | undefined;
  #observation: Observation | undefined;
  #unseen = false;
  #breach: (breach: Breach) => void = () => {};
  /** Called when the driver next gives up the device. */
  readonly #whenFree: (() => void)[] = [];
  /** Counts resets and reloads. */
  #generation = 0;

  /**
   * @param log receives lines for the user
   * @param datapaths tests substitute their own
   */
  constructor(
    device: VirtioDevice,
    options: VirtioDeviceOptions,
    log: (text: string) => void,
    datapaths: DatapathTable = datapathsOf(device),
  ) {
    super();
    this.device = device;
    this.#options = options;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
    const events: DatapathEvents = {
      broken: (reason, denied) => this.#broken(reason, denied),
      log: (text) => this.#lines.say(text),
      message: (message) => device.message?.(message),
      breach: (breach) => this.#breach(breach),
    };
    this.#queues = new QueueService(device.name, datapaths, events);
    device.attach?.(this);
    options.code?.attach(this, log);
  }

  get name(): string {
    return this.device.name;
  }

  get queueNames(): readonly string[] {
    return this.device.queues.map(({ name }) => name);
  }

  get removable(): boolean {
    const lasts = LASTING.includes(this.device.deviceId) || this.#translated !== undefined;
    return !lasts && this.#options.transport === 'pci';
  }

  /** Which datapath serves the queues. */
  get datapath(): DatapathName {
    return this.#queues.datapath;
  }

  /** The thread of its own that serves them, by the kernel's id; 0 without one. */
  get threadId(): number {
    return this.#queues.threadId;
  }

  /** How the thread that serves the queues waits, when that is this process's. */
  get poll(): PollMode {
    return this.#options.poll ?? 'off';
  }

  /** Feature bits that this datapath does not support, which are not offered. */
  get withheld(): bigint {
    return this.#queues.withheld;
  }

  /** Where the device is plugged in; undefined while it is not. */
  get slot(): DeviceSlot | undefined {
    return this.#slot;
  }

  /** Where it is on the board. */
  get planned(): VirtioPlan | undefined {
    return this.#plan;
  }

  /** Whether it is to be behind an IOMMU. */
  get iommu(): IommuMode {
    return this.#options.iommu ?? 'auto';
  }

  /**
   * Puts it behind an IOMMU, before the first power-on.
   * @param space its addresses
   * @param denied gets accesses that the IOMMU did not permit; each stops the device
   */
  translate(space: IovaSpace, denied: (access: DeniedAccess) => void): void {
    this.#translated = { space, denied };
    this.#queues.translate(space);
  }

  /** The addresses that it uses behind an IOMMU; undefined: guest physical ones. */
  get translated(): GuestMemory | undefined {
    return this.#translated?.space.memory;
  }

  /** Moves it to vhost if that is requested: the driver is then not offered what vhost lacks. */
  async prepare(): Promise<void> {
    const { vhost = 'off' } = this.#options;
    if (vhost === 'off') return;
    try {
      await this.moveTo('vhost');
    } catch (error) {
      if (vhost === 'on' || !(error instanceof NodeVmmError)) throw error;
      this.#lines.say(`served in userspace: ${error.message}`);
    }
  }

  watch(
    observation: Observation,
    breach: (breach: Breach) => void,
    trace: TraceWriter | undefined,
  ): void {
    this.#observation = observation;
    this.#breach = breach;
    const whom = whomOf(observation.device);
    this.device.watch?.({
      ...(observation.check === true
        ? { breach: (rule, text, note) => breach({ side: 'driver', rule, text, dump: [note] }) }
        : {}),
      ...(trace === undefined
        ? {}
        : { record: (what, a, b, x, y) => trace.write(what, whom, a, b, x, y) }),
    });
  }

  plan(resources: DeviceResources): VirtioPlan {
    const { transport, ring } = this.#options;
    // §6.1: a device that only has translated addresses may refuse a driver that does not.
    const required = this.#translated === undefined ? 0n : ACCESS_PLATFORM;
    const shape = deviceShape(this.device, ring, this.withheld, required);
    const { pciClass, notifyPages } = this.device;
    this.#plan = planVirtio(transport, shape, pciClass, resources, notifyPages);
    return this.#plan;
  }

  plug(board: PluggedBoard, memory: GuestMemoryShare): void {
    if (this.#plan === undefined) throw new InternalError(`${this.name} has no plan`);
    const { address, registers } = board.device(this.#plan);
    const seen = this.translated?.share ?? memory;
    this.#slot = new DeviceSlot(addressText(address), board.state, registers, seen);
  }

  /** Stops serving and takes the device out of its board, as a reset of the machine does. */
  async unplug(): Promise<void> {
    try {
      await this.steps.run(async () => {
        await this.#deactivate();
        this.device.reset?.();
        await this.#queues.reset();
      });
    } finally {
      this.#slot?.close();
      this.#slot = undefined;
      this.#lines.flush();
    }
  }

  message(message: DeviceMessage): void {
    if (message.kind === 'breach') {
      this.#breach(message.breach);
      return;
    }
    this.steps.run(() => this.#look()).catch((error) => this.#broken(messageOf(error)));
  }

  /**
   * Switches to another datapath; each queue continues where it stopped, even under
   * traffic.
   * @throws UsageError when it cannot serve the device, or not with the negotiated features;
   *   HostError when it fails. Everything is then as it was before.
   */
  moveTo(name: DatapathName): Promise<void> {
    return this.steps.run(async () => {
      const before = this.#queues.datapath;
      if (name === before) return;
      this.#queues.checkMove(name);
      await this.halt('all');
      this.#queues.choose(name);
      try {
        await this.#start();
      } catch (error) {
        this.#queues.choose(before);
        await this.serve();
        throw error;
      }
      await this.#queues.releaseOthers();
    });
  }

  /** Stops taking chains from a queue. @throws UsageError unless userspace serves it */
  holdQueue(queue: number): Promise<void> {
    return this.#changeHolds(() => this.#queues.hold(queue, 0));
  }

  /** Takes one more chain, then none. @throws UsageError unless userspace serves it */
  stepQueue(queue: number): Promise<void> {
    return this.#changeHolds(() => this.#queues.hold(queue, 1));
  }

  /** Resumes taking chains. @throws UsageError unless userspace serves the queue */
  releaseQueue(queue: number): Promise<void> {
    return this.#changeHolds(() => this.#queues.release(queue));
  }

  /** Chains that may still be taken from a held queue in this state; undefined when it is not held. */
  credits(queue: number, state?: VringState): number | undefined {
    return this.#queues.credits(queue, state);
  }

  /** Resolves when it can be served as soon as there is a driver. */
  ready(): Promise<void> {
    return this.#queues.ready();
  }

  /** Resolves when no driver has the device: it was reset, or unplugged. @returns whether one had it before */
  async free(): Promise<boolean> {
    await this.steps.ended();
    if (this.#queues.activation === undefined) return false;
    await new Promise<void>((resolve) => this.#whenFree.push(resolve));
    return true;
  }

  /** The position of each queue, if its datapath knows it. */
  states(): Promise<ReadonlyMap<number, VringState>> {
    return this.#queues.states();
  }

  /** Reloads its file. @throws UsageError when it has none, or it now holds an unusable device */
  async reloadCode(): Promise<void> {
    const { code } = this.#options;
    if (code === undefined) {
      throw new UsageError('E_DEVICE', `${this.name} is not made from a file`);
    }
    await code.reload();
  }

  /**
   * Continues with changed code. The driver is asked to reset the device (DEVICE_NEEDS_RESET, virtio
   * 1.3 §2.1.2); under one that does not, such as Linux's own drivers, the queues are served again
   * after a while, each from where it stopped.
   * @param change makes it, while nothing is served; when it throws, nothing changes
   */
  reload(change: () => void, patienceMs = RESET_PATIENCE_MS): Promise<void> {
    return this.steps.run(async () => {
      await this.halt('all');
      try {
        change();
        await this.#queues.renew();
      } catch (error) {
        await this.serve();
        throw error;
      }
      if (this.#queues.activation === undefined) return;
      this.#slot?.askForReset();
      this.#generation += 1;
      const generation = this.#generation;
      const patience = setTimeout(() => {
        void this.steps.run(async () => {
          if (this.#generation === generation) await this.#continueUnreset();
        });
      }, patienceMs);
      patience.unref();
    });
  }

  updateConfig(change: (config: DataView) => void, quiet = false): void {
    const slot = this.#slot;
    if (slot === undefined) {
      const { buffer, byteOffset, length } = this.device.config;
      change(new DataView(buffer, byteOffset, length));
      return;
    }
    // The device keeps its own fields, so that they still hold after the next power-on.
    slot.updateConfig(change, this.device.config, quiet);
  }

  readConfig(): Uint8Array {
    return this.#slot?.readConfig() ?? Uint8Array.from(this.device.config);
  }

  post(message: unknown, key?: string): void {
    this.#queues.post(message, key);
  }

  /** Handles what the driver did since the last time. */
  async #look(): Promise<void> {
    const slot = this.#slot;
    if (slot === undefined) return;
    const { registers } = slot.transport;
    const { lock } = slot.state;
    // The changes only say where to look: the registers may hold newer values.
    const changes = lock.with(() => registers.changes.take());
    if ((changes & CHANGE_RESET) !== 0 && lock.with(() => registers.isResetting)) {
      try {
        await this.#deactivate();
        this.device.reset?.();
        await this.#queues.reset();
      } finally {
        lock.with(() => registers.completeReset());
      }
    }
    if ((changes & CHANGE_CONFIG) !== 0) this.#configWritten(slot);
    if ((changes & CHANGE_QUEUES) !== 0) await this.#resetQueues(slot);
    if (this.#queues.activation !== undefined) {
      if ((changes & CHANGE_QUEUES) !== 0) await this.#restart();
      else if ((changes & CHANGE_INTERRUPTS) !== 0) await this.#reroute(slot);
    } else if ((changes & CHANGE_DRIVER_OK) !== 0 && lock.with(() => registers.isActive)) {
      await this.#activate();
    }
  }

  #configWritten({ state, transport }: DeviceSlot): void {
    const { config } = transport.registers;
    const { written, emergency } = state.lock.with(() => ({
      written: config.takeWritten(),
      emergency: config.takeEmergency(),
    }));
    for (const { offset, length } of written) this.device.configWritten?.(offset, length);
    if (emergency === undefined) return;
    this.device.emergencyWritten?.(emergency.bytes);
    if (emergency.lost > 0) {
      this.#lines.say('the driver made emergency writes faster than they were read: some are lost');
    }
  }

  /** Releases the queues to be reset; the others are stopped meanwhile. */
  async #resetQueues({ state, transport }: DeviceSlot): Promise<void> {
    const { registers } = transport;
    const queues = state.lock.with(() => registers.queuesResetting());
    if (queues.length === 0) return;
    await this.halt({ except: queues });
    for (const queue of queues) this.#queues.forget(queue);
    state.lock.with(() => {
      for (const queue of queues) registers.completeQueueReset(queue);
    });
  }

  /** The driver chose other vectors for queues. */
  async #reroute(slot: DeviceSlot): Promise<void> {
    try {
      if (await this.#queues.reroute(this.#activation(slot))) return;
    } catch (error) {
      this.#broken(messageOf(error));
      return;
    }
    await this.#restart();
  }

  /** Lets the datapath see registers that changed; each queue continues where it was. */
  async #restart(): Promise<void> {
    if (this.#queues.activation === undefined) return;
    await this.halt('all');
    await this.#activate();
  }

  /** Serves the queues as the registers describe them now. */
  async #activate(): Promise<void> {
    const slot = this.#slot;
    if (slot === undefined) return;
    this.#queues.setUp(this.#activation(slot));
    await this.serve();
  }

  #activation(slot: DeviceSlot): Activation {
    const observe = this.#observation === undefined ? {} : { observe: this.#observation };
    return { ...slot.activation(), poll: this.poll, ...observe };
  }

  #changeHolds(change: () => void): Promise<void> {
    return this.steps.run(async () => {
      this.#queues.checkHolds();
      await this.halt('all');
      change();
      await this.serve();
    });
  }

  protected closeDatapath(): Promise<void> {
    return this.#queues.close();
  }

  protected async serve(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  async #start(): Promise<void> {
    const slot = this.#slot;
    if (slot === undefined || this.paused) return;
    // A broken device is not served before its reset.
    if (slot.needsReset) return;
    await this.#queues.start(this.readConfig());
    if (this.#queues.isServed) this.#reportUnseen();
  }

  /** Reports once that the observer does not see what other processes and the kernel serve. */
  #reportUnseen(): void {
    const { datapath } = this;
    if (this.#observation === undefined || datapath === 'userspace' || this.#unseen) return;
    this.#unseen = true;
    this.#lines.say(
      `${datapath} serves its queues: neither trace nor check sees what happens on them`,
    );
  }

  protected async halt(continuing: Continuing = 'all'): Promise<void> {
    try {
      await this.#queues.stop(continuing);
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  async #deactivate(): Promise<void> {
    this.#generation += 1;
    await this.halt('none');
    this.#queues.clear();
    for (const resolve of this.#whenFree.splice(0)) resolve();
  }

  #broken(reason: string, denied?: DeniedAccess): void {
    if (this.#slot === undefined) return;
    if (denied !== undefined) this.#translated?.denied(denied);
    this.#lines.say(`stopped: ${reason}`);
    this.#slot?.askForReset();
  }

  /** The driver did not reset a device whose code changed: it may not support that. */
  async #continueUnreset(): Promise<void> {
    this.#slot?.clearNeedsReset();
    await this.serve();
  }
}
