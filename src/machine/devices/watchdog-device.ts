/** A machine's watchdog: looks when its guest last restarted it, and acts when that is too long ago. */
import { monotonicMs } from '../../host/clock.ts';
import { InternalError } from '../../host/errors.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import { WATCHDOG_MEMORY_SIZE } from '../../watchdog/pci.ts';
import type { WatchdogRegisters } from '../../watchdog/registers.ts';
import type { WatchdogDevice } from '../../watchdog/watchdog-type.ts';
import type { DeviceMessage, DevicePlan } from '../board/board-devices.ts';
import type { MachineDevice, PluggedBoard } from './machine-device.ts';
import type { ResourceAllocator } from './resource-allocator.ts';

/** setTimeout takes no more. */
const LONGEST_MS = 2 ** 31 - 1;

/** Its registers on a board. */
interface Plugged {
  readonly board: PluggedBoard;
  readonly registers: WatchdogRegisters;
}

/** Owns the timer behind the registers. */
export class WatchdogMachineDevice implements MachineDevice {
  readonly device: WatchdogDevice;
  readonly queueNames: readonly string[] = [];
  readonly removable = false;
  readonly #lines: LogLimit;
  #plan: DevicePlan<'i6300esb'> | undefined;
  #plugged: Plugged | undefined;
  #timer: NodeJS.Timeout | undefined;
  #pausedAt: number | undefined;
  /** The last reset was the watchdog's. */
  #timedOut = false;

  constructor(device: WatchdogDevice, log: (text: string) => void) {
    this.device = device;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
  }

  get name(): string {
    return this.device.name;
  }

  plan(resources: ResourceAllocator): DevicePlan<'i6300esb'> {
    this.#plan = {
      model: 'i6300esb',
      plan: {
        name: this.name,
        slot: resources.slot(),
        memoryAddress: resources.memory(WATCHDOG_MEMORY_SIZE),
        timedOut: this.#timedOut,
      },
    };
    this.#timedOut = false;
    return this.#plan;
  }

  plug(board: PluggedBoard): void {
    if (this.#plan === undefined) throw new InternalError(`${this.name} has no plan`);
    this.#plugged = { board, registers: board.device(this.#plan).registers.registers };
  }

  /** The timer has been started, or restarted for a shorter time. */
  message(message: DeviceMessage): void {
    if (message.kind === 'changed') this.#look();
  }

  async pause(): Promise<void> {
    this.#pausedAt ??= monotonicMs();
    clearTimeout(this.#timer);
  }

  async resume(): Promise<void> {
    const since = this.#pausedAt;
    this.#pausedAt = undefined;
    if (since === undefined) return;
    this.#withRegisters((registers) => registers.postpone(monotonicMs() - since));
    this.#look();
  }

  async unplug(): Promise<void> {
    clearTimeout(this.#timer);
    this.#plugged = undefined;
    this.#pausedAt = undefined;
    this.#lines.flush();
  }

  async close(): Promise<void> {}

  #withRegisters<T>(use: (registers: WatchdogRegisters) => T): T | undefined {
    if (this.#plugged === undefined) return undefined;
    const { board, registers } = this.#plugged;
    return board.state.lock.with(() => use(registers));
  }

  /** Acts on a deadline that has passed, and waits for the next one. */
  #look(): void {
    clearTimeout(this.#timer);
    if (this.#plugged === undefined || this.#pausedAt !== undefined) return;
    const now = monotonicMs();
    const due = this.#withRegisters((registers) => {
      const deadline = registers.deadlineMs;
      if (deadline <= now) {
        // Once, until the guest restarts it.
        registers.postpone(Infinity);
        registers.armed(Infinity);
        return registers.resets ? 'now' : 'never';
      }
      registers.armed(deadline);
      return deadline;
    });
    if (due === 'now') this.#act();
    if (typeof due !== 'number' || due === Infinity) return;
    this.#timer = setTimeout(() => this.#look(), Math.min(due - now, LONGEST_MS)).unref();
  }

  #act(): void {
    const { action } = this.device;
    const what = { reset: 'resets the machine', exit: 'ends the run', none: 'does nothing' }[
      action
    ];
    this.#lines.say(`the guest did not restart it in time: it ${what}`);
    if (action === 'none') return;
    this.#timedOut = action === 'reset';
    this.#plugged?.board.power(action === 'reset' ? 'reboot' : 'watchdog');
  }
}
