/** What a device is to the rest of the machine, whatever implements it. */
import { StepQueue } from '../../datapath/datapath.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { Breach, Observation } from '../../virtio/observe/observation.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import type { Board } from '../board/board.ts';
import type { DeviceMessage, DevicePlan } from '../board/board-devices.ts';
import type { DeviceResources } from './resource-allocator.ts';

/**
 * A device from the machine's creation to its end. Each power-on plans it, builds a board from the
 * plans, and plugs it in; power-off and reset unplug it.
 */
export interface MachineDevice {
  /** For messages and commands, such as `blk0`. */
  readonly name: string;
  /** Names of its virtqueues; an emulated card has none. */
  readonly queueNames: readonly string[];
  /** It may leave a running machine. */
  readonly removable: boolean;
  /** Once, before the first power-on: settles what it offers the guest. @throws when it is unusable */
  prepare?(): Promise<void>;
  /**
   * Observes its queues from the next start on.
   * @param breach gets each breach of the rules
   * @param trace of this thread, for what its control half does
   */
  watch?(
    observation: Observation,
    breach: (breach: Breach) => void,
    trace: TraceWriter | undefined,
  ): void;
  /** Takes the addresses, eventfds and interrupts that it needs on the next board. */
  plan(resources: DeviceResources): DevicePlan;
  /** Plugs it into the board that was built from its plan, before the guest runs. */
  plug(board: PluggedBoard, memory: GuestMemoryShare): void;
  /** The guest did something to its registers. */
  message(message: DeviceMessage): void;
  /** Quiesces it; it keeps its position. */
  pause(): Promise<void>;
  /** Resumes where `pause` left off. */
  resume(): Promise<void>;
  /** Detaches from the board and its guest, as a reset of the machine does. */
  unplug(): Promise<void>;
  /** Releases everything. It is not plugged in. */
  close(): Promise<void>;
}

/** The parts of its board that a device uses. */
export type PluggedBoard = Pick<Board, 'state' | 'vmFd' | 'device' | 'power'>;

/** What every device does alike: one step at a time, rest, continue and close. */
export abstract class SteppedDevice {
  abstract readonly device: { close(): void };
  protected paused = false;
  /** What is done to the datapath. */
  protected readonly steps = new StepQueue();

  /** Serves the device, if it is plugged in and not paused. */
  protected abstract serve(): Promise<void>;
  /** Stops serving, and keeps the device's position. */
  protected abstract halt(): Promise<void>;
  protected abstract closeDatapath(): Promise<void>;

  pause(): Promise<void> {
    return this.steps.run(async () => {
      this.paused = true;
      await this.halt();
    });
  }

  resume(): Promise<void> {
    return this.steps.run(async () => {
      this.paused = false;
      await this.serve();
    });
  }

  async close(): Promise<void> {
    await this.steps.ended();
    try {
      await this.closeDatapath();
    } finally {
      this.device.close();
    }
  }
}
