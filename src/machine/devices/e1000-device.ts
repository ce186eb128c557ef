/** An emulated network card of a machine: its data half runs for one power cycle at a time. */

import { E1000_IO_SIZE, E1000_MEMORY_SIZE } from '../../abi/e1000.ts';
import type { Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { QueueWorkerDatapath } from '../../datapath/queue-worker.ts';
import { InternalError, messageOf } from '../../host/errors.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { E1000Device } from '../../nic/device.ts';
import type { E1000Location } from '../../nic/e1000-handler.ts';
import type { E1000Pci } from '../../nic/pci.ts';
import type { DeviceMessage, DevicePlan } from '../board/board-devices.ts';
import { type MachineDevice, type PluggedBoard, SteppedDevice } from './machine-device.ts';
import type { DeviceResources } from './resource-allocator.ts';

/** A card in its slot, for one power cycle. */
interface Plugged {
  readonly pci: E1000Pci;
  readonly memory: GuestMemoryShare;
  /** Where the data half finds the registers. */
  readonly location: E1000Location;
}

/** Makes the datapath that runs a card's data half. */
export type OpenNicDatapath = (device: E1000Device, events: DatapathEvents) => Datapath;

/** Owns a card and the thread that moves its packets. */
export class E1000MachineDevice extends SteppedDevice implements MachineDevice {
  readonly device: E1000Device;
  /** A driver can provoke most of these lines at will. */
  readonly #lines: LogLimit;
  readonly #datapath: Datapath;
  #plan: DevicePlan<'e1000'> | undefined;
  #plugged: Plugged | undefined;
  #running = false;

  /** @param openDatapath tests substitute their own */
  constructor(
    device: E1000Device,
    log: (text: string) => void,
    openDatapath: OpenNicDatapath = openWorker,
  ) {
    super();
    this.device = device;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
    this.#datapath = openDatapath(device, {
      broken: (reason) => this.#broken(reason),
      log: (text) => this.#lines.say(text),
      message: () => {},
    });
  }

  get name(): string {
    return this.device.name;
  }

  get queueNames(): readonly string[] {
    return [];
  }

  get removable(): boolean {
    return true;
  }

  plan(resources: DeviceResources): DevicePlan<'e1000'> {
    this.#plan = {
      model: 'e1000',
      plan: {
        name: this.device.name,
        slot: resources.slot(),
        mac: this.device.macBytes,
        memoryAddress: resources.memory(E1000_MEMORY_SIZE),
        ioAddress: resources.ports(E1000_IO_SIZE),
        kick: resources.eventfd(),
      },
    };
    return this.#plan;
  }

  plug(board: PluggedBoard, memory: GuestMemoryShare): void {
    if (this.#plan === undefined) throw new InternalError(`${this.name} has no plan`);
    const { registers: pci } = board.device(this.#plan);
    const { words } = pci.registers.file;
    const { kick } = pci.plan;
    const lock = board.state.lock.word;
    const location = { words, kick, lock, pin: pci.pinShare, vmFd: board.vmFd };
    this.#plugged = { pci, memory, location };
    void this.steps.run(() => this.serve());
  }

  /** Releases the rings and takes the card out of its board, as a reset of the machine does. */
  async unplug(): Promise<void> {
    try {
      await this.steps.run(() => this.halt());
    } finally {
      this.#plugged = undefined;
      this.#lines.flush();
    }
  }

  /** The driver reset a stopped card: it restarts. */
  message(message: DeviceMessage): void {
    if (message.kind !== 'changed') return;
    void this.steps.run(async () => {
      await this.halt();
      await this.serve();
    });
  }

  protected closeDatapath(): Promise<void> {
    return this.#datapath.close();
  }

  protected async serve(): Promise<void> {
    if (this.#plugged === undefined || this.paused || this.#running) return;
    const { pci, memory, location } = this.#plugged;
    // A broken card restarts only after the driver's reset, which the registers report.
    if (pci.registers.file.broken) return;
    try {
      await this.#datapath.start({ memory, features: 0n, queues: [] });
      this.#running = true;
      this.#datapath.post(location);
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  protected async halt(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    try {
      await this.#datapath.stop();
    } catch (error) {
      this.#broken(messageOf(error));
    }
  }

  #broken(reason: string): void {
    if (this.#plugged === undefined) return;
    this.#lines.say(`stopped: ${reason}`);
    this.#plugged.pci.registers.file.broken = true;
  }
}

function openWorker({ name, module, options }: E1000Device, events: DatapathEvents): Datapath {
  return new QueueWorkerDatapath({ name, module, options }, events);
}
