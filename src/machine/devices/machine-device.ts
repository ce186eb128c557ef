/** What a device of a machine is to the rest of it, whatever it is made of. */
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { Breach, Observation } from '../../virtio/observe/observation.ts';
import type { Board } from '../board/board.ts';
import type { DeviceMessage, DevicePlan } from '../board/board-devices.ts';
import type { ResourceAllocator } from './resource-allocator.ts';

/**
 * A device from the machine's creation to its end. Each power-on plans it, builds a board from the
 * plans, and plugs it in; power-off and reset unplug it.
 */
export interface MachineDevice {
  /** For messages and orders, such as `blk0`. */
  readonly name: string;
  /** Names of its virtqueues; an emulated card has none. */
  readonly queueNames: readonly string[];
  /** Once, before the first power-on: settles what it offers the guest. @throws what makes it unusable */
  prepare?(): Promise<void>;
  /**
   * Has its queues watched from the next start on.
   * @param breach gets the rules that were broken
   */
  watch?(observation: Observation, breach: (breach: Breach) => void): void;
  /** Takes the addresses, eventfds and interrupts that it needs on the next board. */
  plan(resources: ResourceAllocator): DevicePlan;
  /** Plugs it into the board that was built from its plan, before the guest runs. */
  plug(board: PluggedBoard, memory: GuestMemoryShare): void;
  /** The guest did something to its registers. */
  message(message: DeviceMessage): void;
  /** Brings it to rest; it remembers where it stands. */
  pause(): Promise<void>;
  /** Continues where `pause` left off. */
  resume(): Promise<void>;
  /** Lets go of the board and its guest, as at a reset of the machine. */
  unplug(): Promise<void>;
  /** Releases everything. It is not plugged in. */
  close(): Promise<void>;
}

/** What of its board a device works with. */
export type PluggedBoard = Pick<Board, 'state' | 'vmFd' | 'device'>;
