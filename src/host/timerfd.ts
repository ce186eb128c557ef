/** timerfd(2): a later wake-up for a thread that waits for descriptors. */
import { Fd } from './fd.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const SYS_timerfd_create = 283;
const SYS_timerfd_settime = 286;
const CLOCK_MONOTONIC = 1;
const TFD_NONBLOCK = 0o4000;
const TFD_CLOEXEC = 0o2000000;
/** struct itimerspec: interval and time to go, each seconds and nanoseconds. */
const ITIMERSPEC_SIZE = 32;
const VALUE = 16;
const NANOSECONDS = 1e9;

/** Scratch of the calling thread. */
let scratch: NativeMemory | undefined;

/**
 * Has the timer behind a descriptor become readable once; usable in any thread that knows it.
 * @param delayNs at most 2^53; 0: never
 */
export function armTimerfd(fd: number, delayNs: number): void {
  scratch ??= new NativeMemory(ITIMERSPEC_SIZE);
  const { view, address } = scratch;
  view.setUint32(VALUE, Math.floor(delayNs / NANOSECONDS), true);
  view.setUint32(VALUE + 8, delayNs % NANOSECONDS, true);
  const result = sys.syscall(SYS_timerfd_settime, fd, 0, address, 0);
  sys.check(result, 'timerfd_settime', `${delayNs} ns`);
}

/** A timer that becomes readable once. */
export class Timerfd extends Fd {
  readonly #expirations = new NativeMemory(8);

  constructor() {
    const flags = TFD_NONBLOCK | TFD_CLOEXEC;
    const fd = sys.syscall(SYS_timerfd_create, CLOCK_MONOTONIC, flags);
    super(sys.check(fd, 'timerfd_create', 'a new timer'));
  }

  /** @param delayNs at least 1, at most 2^53 */
  arm(delayNs: number): void {
    armTimerfd(this.fd, delayNs);
  }

  /** Makes it unreadable again. Returns whether it had expired. */
  drain(): boolean {
    return sys.read(this.fd, this.#expirations.address, 8) === 8;
  }
}
