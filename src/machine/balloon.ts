/** A machine's memory balloon, as its program sees it, wherever the machine runs. */
import { messageOf, UsageError } from '../host/errors.ts';
import { PAGE_SIZE } from '../memory/guest-memory.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { BalloonDevice } from '../virtio/device/balloon/balloon.ts';
import type { GuestMemoryStatistics } from '../virtio/device/balloon/balloon-statistics.ts';

/** How much of its RAM the guest keeps, in bytes. */
export interface BalloonState {
  /** What it is asked to keep. */
  readonly target: number;
  /** What it keeps now. */
  readonly current: number;
}

/** The balloon's state, and the guest's own view of its memory. */
export interface BalloonStatistics extends BalloonState {
  /** Absent: no driver reports it. */
  readonly guest?: GuestMemoryStatistics;
}

/** What a balloon is to its machine. */
export interface BalloonCalls {
  /** Undefined: the machine has none. */
  state(): BalloonState | undefined;
  setTarget(bytes: number): Promise<void>;
  statistics(): Promise<BalloonStatistics>;
}

/** `vm.balloon`; without the option `balloon`, every use fails (E_BALLOON). */
export class MachineBalloon {
  readonly #calls: BalloonCalls;
  readonly #failed: (problem: string) => void;

  /** @internal */
  constructor(calls: BalloonCalls, failed: (problem: string) => void) {
    this.#calls = calls;
    this.#failed = failed;
  }

  /** As `state`; undefined when the machine has none. */
  find(): BalloonState | undefined {
    return this.#calls.state();
  }

  /** The target, and how far the guest is; of a machine in another process, as of its last answer. */
  get state(): BalloonState {
    return this.find() ?? missing();
  }

  /** As `state.target`. Setting it is `setTarget`; what goes wrong then is an event `log`. */
  get target(): number {
    return this.state.target;
  }

  set target(bytes: number) {
    this.setTarget(bytes).catch((error: unknown) => this.#failed(messageOf(error)));
  }

  /**
   * Asks the guest to keep this much of its RAM, and to give the rest back. It does so in its own time: see
   * `state.current`.
   * @param bytes whole pages of 4096 bytes, at most all RAM
   * @throws UsageError (E_BALLOON) when it cannot be, or the machine has no balloon
   */
  setTarget(bytes: number): Promise<void> {
    return this.#calls.setTarget(bytes);
  }

  /** What the guest reports of its memory: now, or at the last interval of `statsInterval`. */
  statistics(): Promise<BalloonStatistics> {
    return this.#calls.statistics();
  }
}

function missing(): never {
  throw new UsageError(
    'E_BALLOON',
    'this machine has no balloon',
    'create it with balloon (--balloon)',
  );
}

/**
 * The balloon of a machine in this process.
 * @param device undefined: the machine has none
 * @param memory bytes of its RAM
 */
export function balloonCalls(device: BalloonDevice | undefined, memory: number): BalloonCalls {
  const left = (pages: number): number => Math.max(0, memory - pages * PAGE_SIZE);
  const stateOf = ({ wanted, actual }: BalloonDevice): BalloonState => ({
    target: left(wanted),
    current: left(actual),
  });
  return {
    state: () => device && stateOf(device),
    setTarget: async (bytes) => {
      const balloon = device ?? missing();
      const pages = (memory - bytes) / PAGE_SIZE;
      if (!Number.isInteger(pages) || bytes < 0 || bytes > memory) {
        throw new UsageError(
          'E_BALLOON',
          `the guest cannot keep ${bytes} bytes of its ${memory / MiB} MiB`,
          `the target is whole pages of ${PAGE_SIZE} bytes, at most all RAM`,
        );
      }
      balloon.wanted = pages;
    },
    statistics: async () => {
      const balloon = device ?? missing();
      const guest = await balloon.statistics();
      return { ...stateOf(balloon), ...(guest === undefined ? {} : { guest }) };
    },
  };
}
