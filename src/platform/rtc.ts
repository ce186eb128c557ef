/** The CMOS clock (MC146818A): tells the host's time in UTC; its alarms and interrupts are absent. */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { SharedState } from '../state/shared-state.ts';

const SECONDS = 0x00;
const MINUTES = 0x02;
const HOURS = 0x04;
const DAY_OF_WEEK = 0x06;
const DAY = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
const REGISTER_A = 0x0a;
const REGISTER_B = 0x0b;
const REGISTER_D = 0x0d;
const CENTURY = 0x32;

const DIVIDER_32768_HZ = 0x26;
const UPDATE_IN_PROGRESS = 0x80;
/** An update shows this much before the second turns; the chip's 244 us, in what Date can tell. */
const UPDATE_MS = 1;
const MODE_24H = 0x02;
const VALID_RAM_AND_TIME = 0x80;

/** Ports 0x70 (index) and 0x71 (data). */
export class Rtc implements RegisterRegion {
  readonly #index: Int32Array;
  readonly #now: () => Date;

  /** @param now the time to tell */
  constructor(state: SharedState, now: () => Date = () => new Date()) {
    this.#index = state.words(1);
    this.#now = now;
  }

  read(offset: number, size: number): number {
    if (size !== 1) return 2 ** (8 * size) - 1;
    return offset === 0 ? 0xff : this.#register((this.#index[0] ?? 0) & 0x7f);
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === 0) this.#index[0] = value & 0xff;
  }

  #register(index: number): number {
    const now = this.#now();
    switch (index) {
      case SECONDS:
        return bcd(now.getUTCSeconds());
      case MINUTES:
        return bcd(now.getUTCMinutes());
      case HOURS:
        return bcd(now.getUTCHours());
      case DAY_OF_WEEK:
        return bcd(now.getUTCDay() + 1);
      case DAY:
        return bcd(now.getUTCDate());
      case MONTH:
        return bcd(now.getUTCMonth() + 1);
      case YEAR:
        return bcd(now.getUTCFullYear() % 100);
      case CENTURY:
        return bcd(Math.floor(now.getUTCFullYear() / 100));
      case REGISTER_A:
        return now.getUTCMilliseconds() >= 1000 - UPDATE_MS
          ? DIVIDER_32768_HZ | UPDATE_IN_PROGRESS
          : DIVIDER_32768_HZ;
      case REGISTER_B:
        return MODE_24H;
      case REGISTER_D:
        return VALID_RAM_AND_TIME;
      default:
        return 0;
    }
  }
}

function bcd(value: number): number {
  return (Math.floor(value / 10) << 4) | (value % 10);
}
