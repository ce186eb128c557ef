/**
 * The main thread's side of one device: answers what the driver makes happen in the registers, by
 * starting and stopping the datapath that serves the queues. It outlives resets and reboots.
 */
import { DRIVER_OK } from '../abi/virtio-pci.ts';
import type { Activation, Datapath, DatapathEvents } from '../datapath/datapath.ts';
import { InProcessDatapath } from '../datapath/in-process.ts';
import { QueueWorkerDatapath } from '../datapath/queue-worker.ts';
import { InternalError } from '../host/errors.ts';
import { drainEventfd } from '../host/eventfd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import type { GuestMemoryShare } from '../memory/guest-memory.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { DeviceHost, VirtioDevice } from '../virtio/device.ts';
import type { QueueConfig, VringState } from '../virtio/queue/virtqueue.ts';
import type { VirtioPci } from '../virtio/transport/pci.ts';
import type { BoardMessage } from './board.ts';

/** Messages of the board that are about one device. */
export type DeviceMessage = Extract<BoardMessage, { readonly device: number }>;

/** Where the device is plugged in, from power-on to the next. */
interface Socket {
  readonly state: SharedState;
  readonly pci: VirtioPci;
  readonly memory: GuestMemoryShare;
  readonly intx: LoopWatch;
}

/** Owns a device and its datapath. */
export class DeviceOwner implements DeviceHost {
  readonly device: VirtioDevice;
  readonly #log: (text: string) => void;
  readonly #datapath: Datapath;
  #socket: Socket | undefined;
  /** Set while the queues are served; what `resume` starts again. */
  #activation: Activation | undefined;
  #states: ReadonlyMap<number, VringState> = new Map();
  #running = false;
  #paused = false;
  /** Work on the datapath is asynchronous, and strictly one step after the other. */
  #work: Promise<void> = Promise.resolve();

  constructor(device: VirtioDevice, log: (text: string) => void) {
    this.device = device;
    this.#log = (text) => log(`${device.name}: ${text}`);
    this.#datapath = createDatapath(device, {
      broken: (reason) => this.#broken(reason),
      log: this.#log,
      message: (message) => device.message?.(message),
    });
    device.attach?.(this);
  }

  /** Plugs the device into a board that is about to run. */
  plug(state: SharedState, pci: VirtioPci, memory: GuestMemoryShare): void {
    const { intxEventfd } = pci.plan;
    const intx = new LoopWatch(intxEventfd, LOOP_READABLE, () => {
      if (!drainEventfd(intxEventfd)) return;
      state.lock.with(() => pci.assertQueueInterrupt());
    });
    this.#socket = { state, pci, memory, intx };
  }

  /** Stops serving and takes the device out of its board; as at a reset of the machine. */
  async unplug(): Promise<void> {
    await this.#then(async () => {
      await this.#deactivate();
      this.device.reset?.();
    });
    this.#socket?.intx.close();
    this.#socket = undefined;
  }

  /** The driver made something happen. */
  handle(message: DeviceMessage): void {
    void this.#then(() => this.#handle(message));
  }

  /** Stops serving, and remembers where each queue stands. */
  pause(): Promise<void> {
    return this.#then(async () => {
      this.#paused = true;
      await this.#halt();
    });
  }

  /** Goes on where `pause` left off. */
  resume(): Promise<void> {
    return this.#then(async () => {
      this.#paused = false;
      await this.#serve();
    });
  }

  /** Releases device and datapath. The device is not plugged in. */
  async close(): Promise<void> {
    await this.#work;
    try {
      await this.#datapath.close();
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
    const { state, pci } = socket;
    state.lock.with(() => {
      change(pci.registers.config);
      pci.registers.bumpGeneration();
      if ((pci.registers.status & DRIVER_OK) !== 0) pci.notifyConfigChange();
    });
  }

  readConfig(): Uint8Array {
    const socket = this.#socket;
    if (socket === undefined) return Uint8Array.from(this.device.config);
    const { state, pci } = socket;
    return state.lock.with(() => {
      const { buffer, byteOffset, byteLength } = pci.registers.config;
      return Uint8Array.from(new Uint8Array(buffer, byteOffset, byteLength));
    });
  }

  post(message: unknown): void {
    this.#datapath.post(message);
  }

  #then(step: () => Promise<void>): Promise<void> {
    const done = this.#work.then(step);
    this.#work = done.catch(() => {});
    return done;
  }

  async #handle(message: DeviceMessage): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    const { registers } = socket.pci;
    switch (message.kind) {
      case 'driver-ok':
        this.#states = new Map();
        await this.#activate();
        return;
      case 'reset':
        await this.#deactivate();
        this.device.reset?.();
        socket.state.lock.with(() => registers.completeReset());
        return;
      case 'queue-enabled':
        await this.#halt();
        await this.#activate();
        return;
      case 'queue-reset':
        await this.#halt();
        this.#states = new Map([...this.#states].filter(([queue]) => queue !== message.queue));
        socket.state.lock.with(() => registers.completeQueueReset(message.queue));
        await this.#activate();
        return;
      case 'config-written':
        this.device.configWritten?.(message.offset, message.length);
    }
  }

  /** Serves the queues as the registers describe them now. */
  async #activate(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    const { state, pci, memory } = socket;
    this.#activation = state.lock.with(() => {
      const queues: QueueConfig[] = [];
      pci.plan.kicks.forEach((kick, queue) => {
        const config = pci.registers.queueConfig(queue, kick, pci.callEventfd(queue));
        if (config !== undefined) queues.push(config);
      });
      return { memory, features: pci.registers.driverFeatures, queues };
    });
    await this.#serve();
  }

  async #serve(): Promise<void> {
    if (this.#activation === undefined || this.#paused || this.#running) return;
    const queues = this.#activation.queues.map((queue) => {
      const state = this.#states.get(queue.index);
      return state === undefined ? queue : { ...queue, state };
    });
    try {
      await this.#datapath.start({ ...this.#activation, queues });
      this.#running = true;
    } catch (error) {
      this.#broken(error instanceof Error ? error.message : String(error));
    }
  }

  async #halt(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    this.#states = await this.#datapath.stop();
  }

  async #deactivate(): Promise<void> {
    await this.#halt();
    this.#activation = undefined;
    this.#states = new Map();
  }

  #broken(reason: string): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#log(`stopped: ${reason}`);
    const { state, pci } = socket;
    state.lock.with(() => {
      const driven = (pci.registers.status & DRIVER_OK) !== 0;
      if (pci.registers.setNeedsReset() && driven) pci.notifyConfigChange();
    });
  }
}

function createDatapath(device: VirtioDevice, events: DatapathEvents): Datapath {
  const { placement } = device;
  if (placement.thread === 'worker') {
    return new QueueWorkerDatapath({ name: device.name, ...placement }, events);
  }
  return new InProcessDatapath(() => {
    const handler = device.createHandler?.();
    if (handler === undefined) throw new InternalError(`${device.name} has no data half`);
    return handler;
  }, events);
}
