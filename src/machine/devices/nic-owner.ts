/**
 * The main thread's side of an emulated network card: has its data half run from power-on to the
 * next. It outlives resets and reboots.
 */
import type { Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { QueueWorkerDatapath } from '../../datapath/queue-worker.ts';
import { StepQueue } from '../../datapath/step-queue.ts';
import { messageOf } from '../../host/errors.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { E1000Device } from '../../nic/device.ts';
import type { E1000Socket } from '../../nic/e1000-handler.ts';
import type { E1000Pci } from '../../nic/pci.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { DeviceMessage } from '../board/board-devices.ts';

/** Where the card is plugged in, from power-on to the next. */
interface Socket {
  readonly pci: E1000Pci;
  readonly memory: GuestMemoryShare;
  /** What the data half is told. */
  readonly told: E1000Socket;
}

/** Makes the datapath that runs a card's data half. */
export type OpenNicDatapath = (device: E1000Device, events: DatapathEvents) => Datapath;

/** Owns a card and the thread that moves its packets. */
export class NicOwner {
  readonly device: E1000Device;
  /** A driver can have most lines repeated. */
  readonly #lines: LogLimit;
  readonly #datapath: Datapath;
  #socket: Socket | undefined;
  #running = false;
  #paused = false;
  /** What is done to the datapath. */
  readonly #steps = new StepQueue();

  /** @param openDatapath tests put in their own */
  constructor(
    device: E1000Device,
    log: (text: string) => void,
    openDatapath: OpenNicDatapath = openWorker,
  ) {
    this.device = device;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
    this.#datapath = openDatapath(device, {
      broken: (reason) => this.#broken(reason),
      log: (text) => this.#lines.say(text),
      message: () => {},
    });
  }

  /** Plugs the card into a board that is about to run. */
  plug(state: SharedState, pci: E1000Pci, memory: GuestMemoryShare, vmFd: number): void {
    const { words } = pci.registers.file;
    const { kick } = pci.plan;
    const told = { words, kick, lock: state.lock.word, pin: pci.pinShare, vmFd };
    this.#socket = { pci, memory, told };
    void this.#steps.run(() => this.#serve());
  }

  /** Lets go of the rings and takes the card out of its board; as at a reset of the machine. */
  async unplug(): Promise<void> {
    try {
      await this.#steps.run(() => this.#halt());
    } finally {
      this.#socket = undefined;
      this.#lines.flush();
    }
  }

  /** The driver reset a card that had been stopped: it starts anew. */
  handle(message: DeviceMessage): void {
    if (message.kind !== 'changed') return;
    void this.#steps.run(async () => {
      await this.#halt();
      await this.#serve();
    });
  }

  /** Lets go of the rings; where they stand is in the registers. */
  pause(): Promise<void> {
    return this.#steps.run(async () => {
      this.#paused = true;
      await this.#halt();
    });
  }

  /** Goes on where `pause` left off. */
  resume(): Promise<void> {
    return this.#steps.run(async () => {
      this.#paused = false;
      await this.#serve();
    });
  }

  /** Releases the tap and the thread. The card is not plugged in. */
  async close(): Promise<void> {
    await this.#steps.ended();
    try {
      await this.#datapath.close();
    } finally {
      this.device.close();
    }
  }

  async #serve(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined || this.#paused || this.#running) return;
    const { pci, memory, told } = socket;
    // Stopped: not before the driver's reset, which the registers tell of.
    if (pci.registers.file.broken) return;
    try {
      await this.#datapath.start({ memory, features: 0n, queues: [] });
      this.#running = true;
      this.#datapath.post(told);
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  async #halt(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    try {
      await this.#datapath.stop();
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  #broken(reason: string): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#lines.say(`stopped: ${reason}`);
    socket.pci.registers.file.broken = true;
  }
}

function openWorker({ name, module, options }: E1000Device, events: DatapathEvents): Datapath {
  return new QueueWorkerDatapath({ name, module, options }, events);
}
