/**
 * The main thread's side of one device: answers what the driver makes happen in the registers, by
 * starting and stopping the datapath that serves the queues. It outlives resets and reboots.
 */
import type { DatapathEvents } from '../../datapath/datapath.ts';
import { StepQueue } from '../../datapath/step-queue.ts';
import { messageOf } from '../../host/errors.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { DeviceHost, VirtioDevice } from '../../virtio/device.ts';
import type { Breach, Observation } from '../../virtio/observe/observation.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';
import {
  CHANGE_CONFIG,
  CHANGE_DRIVER_OK,
  CHANGE_INTERRUPTS,
  CHANGE_QUEUES,
  CHANGE_RESET,
} from '../../virtio/transport/pending-changes.ts';
import type { VirtioTransport } from '../../virtio/transport/virtio-transport.ts';
import type { DeviceMessage } from '../board/board-devices.ts';
import { ActiveQueues, type GoesOn } from './active-queues.ts';
import { DatapathChoice, type DatapathName, type OpenDatapaths } from './datapath-choice.ts';
import { DeviceSocket } from './device-socket.ts';
import { type GateOrder, type QueueHolds, refuseHolds } from './queue-holds.ts';

/** How long a driver may take to reset a device whose code changed. */
const RESET_PATIENCE_MS = 2000;

/** Owns a device and its datapath. */
export class DeviceOwner implements DeviceHost {
  readonly device: VirtioDevice;
  /** A driver can have most lines repeated. */
  readonly #lines: LogLimit;
  readonly #datapaths: DatapathChoice;
  readonly #queues: ActiveQueues;
  #socket: DeviceSocket | undefined;
  #observation: Observation | undefined;
  #unseen = false;
  #breach: (breach: Breach) => void = () => {};
  /** Counts resets and reloads. */
  #generation = 0;
  #paused = false;
  /** What is done to the datapath. */
  readonly #steps = new StepQueue();

  /** @param open tests put in their own datapaths */
  constructor(device: VirtioDevice, log: (text: string) => void, open?: OpenDatapaths) {
    this.device = device;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
    const events: DatapathEvents = {
      broken: (reason) => this.#broken(reason),
      log: (text) => this.#lines.say(text),
      message: (message) => device.message?.(message),
      breach: (breach) => this.#breach(breach),
    };
    this.#datapaths = new DatapathChoice(device, events, open);
    this.#queues = new ActiveQueues(this.#datapaths);
    device.attach?.(this);
  }

  /**
   * Has the queues watched from the next start on.
   * @param breach is told of rules that were broken
   */
  watch(observation: Observation, breach: (breach: Breach) => void): void {
    this.#observation = observation;
    this.#breach = breach;
  }

  /** The queues that somebody holds. */
  get holds(): QueueHolds {
    return this.#queues.holds;
  }

  /** Where the queues are served. */
  get datapath(): DatapathName {
    return this.#datapaths.name;
  }

  /** Feature bits that cannot be served there. */
  get withheld(): bigint {
    return this.#datapaths.current.withheld;
  }

  /**
   * Has the queues served elsewhere from now on; each goes on where it stood, also under traffic.
   * @throws UsageError when that place is not to be had, or cannot serve what the driver negotiated;
   *   HostError when it fails. All is then as it was before.
   */
  moveTo(name: DatapathName): Promise<void> {
    return this.#steps.run(async () => {
      const before = this.#datapaths.name;
      if (name === before) return;
      if (this.holds.any) refuseHolds(this.device.name, name);
      this.#datapaths.check(name, this.#queues.activation?.features ?? 0n);
      await this.#halt('all');
      this.#datapaths.choose(name);
      try {
        await this.#start();
      } catch (error) {
        this.#datapaths.choose(before);
        await this.#serve();
        throw error;
      }
      await this.#datapaths.releaseOthers();
    });
  }

  /** Holds a queue, lets one chain of it pass, or lets it go. @throws UsageError unless userspace serves it */
  gate(queue: number, order: GateOrder): Promise<void> {
    return this.#steps.run(async () => {
      refuseHolds(this.device.name, this.#datapaths.name);
      await this.#halt('all');
      this.holds.obey(order, queue);
      await this.#serve();
    });
  }

  /** Where each queue stands, as far as whoever serves it can tell. */
  states(): Promise<ReadonlyMap<number, VringState>> {
    return this.#queues.states();
  }

  /** Where the device is plugged in; undefined while it is not. */
  get plugged(): DeviceSocket | undefined {
    return this.#socket;
  }

  /**
   * Goes on with changed code. The driver is asked to reset the device (DEVICE_NEEDS_RESET, virtio
   * 1.3 §2.1.2); under one that does not, as Linux's own drivers, the queues are served again after
   * a while, each from where it stood.
   * @param change makes it, while nothing is served; when it throws, all stays as it was
   */
  reload(change: () => void, patienceMs = RESET_PATIENCE_MS): Promise<void> {
    return this.#steps.run(async () => {
      await this.#halt('all');
      try {
        change();
        await this.#datapaths.renew();
      } catch (error) {
        await this.#serve();
        throw error;
      }
      if (this.#queues.activation === undefined) return;
      this.#socket?.askForReset();
      this.#generation += 1;
      const generation = this.#generation;
      const patience = setTimeout(() => {
        void this.#steps.run(async () => {
          if (this.#generation === generation) await this.#goOnUnreset();
        });
      }, patienceMs);
      patience.unref();
    });
  }

  /**
   * Plugs the device into a board that is about to run.
   * @param place how the guest finds it, in words
   */
  plug(
    place: string,
    state: SharedState,
    transport: VirtioTransport,
    memory: GuestMemoryShare,
  ): void {
    this.#socket = new DeviceSocket(place, state, transport, memory);
  }

  /** Stops serving and takes the device out of its board; as at a reset of the machine. */
  async unplug(): Promise<void> {
    try {
      await this.#steps.run(async () => {
        await this.#deactivate();
        this.device.reset?.();
      });
    } finally {
      this.#socket?.[Symbol.dispose]();
      this.#socket = undefined;
      this.#lines.flush();
    }
  }

  /** The driver made something happen. */
  handle(message: DeviceMessage): void {
    if (message.kind === 'breach') {
      this.#breach(message.breach);
      return;
    }
    this.#steps.run(() => this.#look()).catch((error) => this.#broken(messageOf(error)));
  }

  /** Stops serving, and remembers where each queue stands. */
  pause(): Promise<void> {
    return this.#steps.run(async () => {
      this.#paused = true;
      await this.#halt('all');
    });
  }

  /** Goes on where `pause` left off. */
  resume(): Promise<void> {
    return this.#steps.run(async () => {
      this.#paused = false;
      await this.#serve();
    });
  }

  /** Releases device and datapath. The device is not plugged in. */
  async close(): Promise<void> {
    await this.#steps.ended();
    try {
      await this.#datapaths.close();
    } finally {
      this.device.close();
    }
  }

  updateConfig(change: (config: DataView) => void): void {
    const socket = this.#socket;
    if (socket === undefined) {
      const { buffer, byteOffset, length } = this.device.config;
      change(new DataView(buffer, byteOffset, length));
      return;
    }
    // The device keeps what is its own, so that it is still true after the next power-on.
    socket.updateConfig(change, this.device.config);
  }

  readConfig(): Uint8Array {
    return this.#socket?.readConfig() ?? Uint8Array.from(this.device.config);
  }

  post(message: unknown, key?: string): void {
    this.#datapaths.current.post(message, key);
  }

  /** Looks at what the driver made happen since the last time, and answers it. */
  async #look(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    const { registers } = socket.transport;
    const { lock } = socket.state;
    // The changes only say where to look: what the registers hold may be later than they are.
    const changes = lock.with(() => registers.changes.take());
    if ((changes & CHANGE_RESET) !== 0 && lock.with(() => registers.isResetting)) {
      try {
        await this.#deactivate();
        this.device.reset?.();
      } finally {
        lock.with(() => registers.completeReset());
      }
    }
    if ((changes & CHANGE_CONFIG) !== 0) this.#configWritten(socket);
    if ((changes & CHANGE_QUEUES) !== 0) await this.#resetQueues(socket);
    if (this.#queues.activation !== undefined) {
      if ((changes & (CHANGE_QUEUES | CHANGE_INTERRUPTS)) !== 0) await this.#restart();
    } else if ((changes & CHANGE_DRIVER_OK) !== 0 && lock.with(() => registers.isActive)) {
      await this.#activate();
    }
  }

  #configWritten({ state, transport }: DeviceSocket): void {
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

  /** Lets go of the queues that are to be reset; the others stand still meanwhile. */
  async #resetQueues({ state, transport }: DeviceSocket): Promise<void> {
    const { registers } = transport;
    const queues = state.lock.with(() => registers.queuesResetting());
    if (queues.length === 0) return;
    await this.#halt({ but: queues });
    for (const queue of queues) this.#queues.forget(queue);
    state.lock.with(() => {
      for (const queue of queues) registers.completeQueueReset(queue);
    });
  }

  /** Lets the datapath see registers that changed; each queue goes on where it stood. */
  async #restart(): Promise<void> {
    if (this.#queues.activation === undefined) return;
    await this.#halt('all');
    await this.#activate();
  }

  /** Serves the queues as the registers describe them now. */
  async #activate(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    const observe = this.#observation === undefined ? {} : { observe: this.#observation };
    this.#queues.setUp({ ...socket.activation(), ...observe });
    await this.#serve();
  }

  async #serve(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  async #start(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined || this.#paused) return;
    // A broken device is not served before its reset.
    if (socket.needsReset) return;
    await this.#queues.start(this.readConfig());
    if (this.#queues.isServed) this.#tellUnseen();
  }

  /** Says once that whoever watches is not told of what others than this process serve. */
  #tellUnseen(): void {
    const { datapath } = this;
    if (this.#observation === undefined || datapath === 'userspace' || this.#unseen) return;
    this.#unseen = true;
    this.#lines.say(
      `${datapath} serves its queues: neither trace nor check sees what happens on them`,
    );
  }

  async #halt(goesOn: GoesOn): Promise<void> {
    try {
      await this.#queues.stop(goesOn);
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  async #deactivate(): Promise<void> {
    this.#generation += 1;
    await this.#halt('none');
    this.#queues.clear();
  }

  #broken(reason: string): void {
    if (this.#socket === undefined) return;
    this.#lines.say(`stopped: ${reason}`);
    this.#socket?.askForReset();
  }

  /** The driver did not reset a device whose code changed: it may not know how. */
  async #goOnUnreset(): Promise<void> {
    this.#socket?.clearNeedsReset();
    await this.#serve();
  }
}
