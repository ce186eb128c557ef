/**
 * The CMOS clock (Motorola MC146818A): the host's time in UTC until the guest sets another, with
 * the alarm, periodic and update-ended interrupts, and the RAM behind it. Registers lie in the
 * state buffer; flags are derived from the time that went by since they were last looked at, so
 * nothing ticks while no interrupt is enabled.
 *
 * Left out: the divider's stop and test modes, the square wave, daylight saving.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { RTC_GSI } from './layout.ts';

const SECONDS_ALARM = 0x01;
const MINUTES_ALARM = 0x03;
const HOURS_ALARM = 0x05;
const REGISTER_A = 0x0a;
const REGISTER_B = 0x0b;
const REGISTER_C = 0x0c;
const REGISTER_D = 0x0d;
const REGISTERS = 0x80;

/** Register A: an update is in progress; rate and divider. */
const UIP = 0x80;
const RATE = 0x0f;
const DIVIDER_32768_HZ = 0x20;
const RATE_1024_HZ = 0x06;
/** An update shows this much before the second turns; the chip's 244 us, in Date's resolution. */
const UPDATE_MS = 1;
/** Register B: the time is being set. */
const SET = 0x80;
/** Registers B (enable) and C (flag): periodic, alarm, update-ended. */
const PERIODIC = 0x40;
const ALARM = 0x20;
const UPDATE_ENDED = 0x10;
const SOURCES = PERIODIC | ALARM | UPDATE_ENDED;
/** Register C: an enabled flag is set. */
const IRQF = 0x80;
/** Register D: RAM and time are valid. */
const VRT = 0x80;

const W_INDEX = 0;
const W_LINE = 1;
const W_ARMED = 2;
const WORDS = 3;

const T_OFFSET = 0;
const T_SEEN_WALL = 1;
const T_SEEN_MONOTONIC = 2;
const TIMES = 3;

/** What the clock runs on. */
export interface RtcMachine extends LineController {
  /** The host's time, milliseconds since 1970 in UTC. */
  wallMs(): number;
  /** Milliseconds of a clock that is never set, the same in all threads. */
  monotonicMs(): number;
  /** Has `expire` called on the main thread after this many milliseconds; Infinity: not at all. */
  arm(delayMs: number): void;
  /** The alarm that the guest enabled has rung. */
  rung(): void;
}

/** A clock's registers, RAM, and times. */
export interface SavedRtc {
  readonly registers: Uint8Array;
  readonly times: Float64Array;
}

/** Ports 0x70 (index) and 0x71 (data). Register accesses and `expire` run with the register lock held. */
export class Rtc implements RegisterRegion {
  readonly #machine: RtcMachine;
  readonly #words: Int32Array;
  /** Registers and RAM; those of the time hold what is being set while SET is on. */
  readonly #registers: Uint8Array;
  readonly #times: Float64Array;

  constructor(state: SharedState, machine: RtcMachine) {
    this.#machine = machine;
    this.#words = state.words(WORDS);
    this.#registers = state.bytes(REGISTERS);
    const times = state.bytes(TIMES * Float64Array.BYTES_PER_ELEMENT);
    this.#times = new Float64Array(times.buffer, times.byteOffset, TIMES);
  }

  /** Power-on state: the host's time, no interrupt enabled. */
  reset(): void {
    this.#registers.fill(0);
    this.#registers[REGISTER_A] = DIVIDER_32768_HZ | RATE_1024_HZ;
    this.#registers[REGISTER_B] = REGISTER_B_24H;
    this.#times[T_OFFSET] = 0;
    this.#settle();
    this.#registers[REGISTER_C] = 0;
    this.#updateLine();
    this.#arm();
  }

  /** What survives a sleep of the machine, since a battery drives the clock. */
  save(): SavedRtc {
    this.#settle();
    return { registers: this.#registers.slice(), times: this.#times.slice() };
  }

  /** Continues from there. */
  restore({ registers, times }: SavedRtc): void {
    this.#registers.set(registers);
    this.#times.set(times);
    this.#settle();
    this.#updateLine();
    this.#arm();
  }

  /** The time that was armed for has come. */
  expire(): void {
    this.#words[W_ARMED] = 0;
    this.#settle();
    this.#updateLine();
    this.#arm();
  }

  read(offset: number, size: number): number {
    if (size !== 1) return 2 ** (8 * size) - 1;
    return offset === 0 ? 0xff : this.#readRegister(this.#get(W_INDEX));
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 1) return;
    // Bit 7 of the index port masks NMIs.
    if (offset === 0) this.#words[W_INDEX] = value & 0x7f;
    else this.#writeRegister(this.#get(W_INDEX), value & 0xff);
  }

  #get(word: number): number {
    return this.#words[word] ?? 0;
  }

  #register(index: number): number {
    return this.#registers[index] ?? 0;
  }

  #readRegister(index: number): number {
    if (isTimeRegister(index)) {
      if (this.#isSetting()) return this.#register(index);
      return encodeTime(this.#wallMs(), this.#register(REGISTER_B))(index);
    }
    switch (index) {
      case REGISTER_A: {
        const ends = !this.#isSetting() && modulo(this.#wallMs(), 1000) >= 1000 - UPDATE_MS;
        return this.#register(REGISTER_A) | (ends ? UIP : 0);
      }
      case REGISTER_C:
        return this.#takeFlags();
      case REGISTER_D:
        return VRT;
      default:
        return this.#register(index);
    }
  }

  #writeRegister(index: number, value: number): void {
    if (index === REGISTER_C || index === REGISTER_D) return;
    this.#settle();
    if (index === REGISTER_B) {
      this.#writeControl(value);
    } else if (isTimeRegister(index)) {
      if (!this.#isSetting()) this.#latchTime();
      this.#registers[index] = value;
      if (!this.#isSetting()) this.#takeTime();
    } else {
      this.#registers[index] = index === REGISTER_A ? value & ~UIP : value;
    }
    this.#updateLine();
    this.#arm();
  }

  /** While SET is set the time stands still, so that it can be written in pieces. */
  #writeControl(value: number): void {
    const wasSetting = this.#isSetting();
    const setting = (value & SET) !== 0;
    if (setting && !wasSetting) this.#latchTime();
    // The chip clears UIE when SET is set.
    this.#registers[REGISTER_B] = setting ? value & ~UPDATE_ENDED : value;
    if (!setting && wasSetting) this.#takeTime();
  }

  #isSetting(): boolean {
    return (this.#register(REGISTER_B) & SET) !== 0;
  }

  #latchTime(): void {
    const encoded = encodeTime(this.#wallMs(), this.#register(REGISTER_B));
    for (let index = 0; index < REGISTERS; index++) {
      if (isTimeRegister(index)) this.#registers[index] = encoded(index);
    }
  }

  #takeTime(): void {
    const control = this.#register(REGISTER_B);
    const set = decodeTime((index) => this.#register(index), control);
    this.#times[T_OFFSET] = set - this.#machine.wallMs();
    this.#times[T_SEEN_WALL] = set;
  }

  /** The time that the clock shows. */
  #wallMs(): number {
    return this.#machine.wallMs() + (this.#times[T_OFFSET] ?? 0);
  }

  /** Sets the flags of what has happened since the last call. */
  #settle(): void {
    const wall = this.#wallMs();
    const monotonic = this.#machine.monotonicMs();
    const seenWall = this.#times[T_SEEN_WALL] ?? 0;
    const seenMonotonic = this.#times[T_SEEN_MONOTONIC] ?? 0;
    let flags = 0;
    if (!this.#isSetting()) {
      if (second(wall) !== second(seenWall)) flags |= UPDATE_ENDED;
      if (nextAlarm(second(seenWall), this.#alarm()) <= second(wall)) flags |= ALARM;
    }
    const period = this.#periodMs();
    if (Math.floor(monotonic / period) !== Math.floor(seenMonotonic / period)) flags |= PERIODIC;
    if ((flags & this.#register(REGISTER_B) & ALARM) !== 0) this.#machine.rung();
    this.#registers[REGISTER_C] = this.#register(REGISTER_C) | flags;
    this.#times[T_SEEN_WALL] = wall;
    this.#times[T_SEEN_MONOTONIC] = monotonic;
  }

  /** Reading register C acknowledges the interrupt. */
  #takeFlags(): number {
    this.#settle();
    const flags = this.#register(REGISTER_C);
    const pending = (flags & this.#register(REGISTER_B) & SOURCES) !== 0;
    this.#registers[REGISTER_C] = 0;
    this.#updateLine();
    this.#arm();
    return flags | (pending ? IRQF : 0);
  }

  #updateLine(): void {
    const enabled = this.#register(REGISTER_C) & this.#register(REGISTER_B) & SOURCES;
    const level = enabled === 0 ? 0 : 1;
    if (level === this.#get(W_LINE)) return;
    this.#words[W_LINE] = level;
    this.#machine.setLine(RTC_GSI, level === 1);
  }

  /**
   * Arms for the next interrupt. A source whose flag waits to be read raises no further one, so the
   * guest's own reads of register C bound how often the timer runs.
   */
  #arm(): void {
    const waited = this.#register(REGISTER_B) & ~this.#register(REGISTER_C) & SOURCES;
    const delay = waited === 0 ? Infinity : this.#delayMs(waited);
    if (delay === Infinity && this.#get(W_ARMED) === 0) return;
    this.#words[W_ARMED] = delay === Infinity ? 0 : 1;
    this.#machine.arm(delay);
  }

  #delayMs(waited: number): number {
    const wall = this.#wallMs();
    const monotonic = this.#machine.monotonicMs();
    const until = (seconds: number): number => seconds * 1000 - wall;
    let delay = Infinity;
    if (!this.#isSetting()) {
      if ((waited & UPDATE_ENDED) !== 0) delay = until(second(wall) + 1);
      if ((waited & ALARM) !== 0) {
        delay = Math.min(delay, until(nextAlarm(second(wall), this.#alarm())));
      }
    }
    if ((waited & PERIODIC) !== 0) {
      const period = this.#periodMs();
      if (period !== Infinity) delay = Math.min(delay, period - (monotonic % period));
    }
    return delay;
  }

  #alarm(): AlarmTime {
    const control = this.#register(REGISTER_B);
    return {
      second: decodeField(this.#register(SECONDS_ALARM), control, 'sixtieth'),
      minute: decodeField(this.#register(MINUTES_ALARM), control, 'sixtieth'),
      hour: decodeField(this.#register(HOURS_ALARM), control, 'hour'),
    };
  }

  /** Table 5 of the data sheet, for a time base of 32768 Hz: rates 1 and 2 are those of 8 and 9. */
  #periodMs(): number {
    const rate = this.#register(REGISTER_A) & RATE;
    if (rate === 0) return Infinity;
    return 1000 / (32768 >> ((rate <= 2 ? rate + 7 : rate) - 1));
  }
}

function second(ms: number): number {
  return Math.floor(ms / 1000);
}

// The clock's registers: BCD or binary, 24 or 12 hours, by register B.

const SECONDS = 0x00;
const MINUTES = 0x02;
const HOURS = 0x04;
const DAY_OF_WEEK = 0x06;
const DAY = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
/** No register of the chip, but where PCs keep it. */
export const RTC_CENTURY = 0x32;

/** Register B: binary instead of BCD; 24 hours instead of 12. */
export const REGISTER_B_DM = 0x04;
export const REGISTER_B_24H = 0x02;

/** An hour of 12: bit 7 is set after noon. */
const PM = 0x80;
/** Alarm registers from this value on match any time. */
const DONT_CARE = 0xc0;
/** Matches any. */
const ANY = -1;
/** Matches none: the register holds no number of its kind. */
const NONE = -2;

/** A time of day that comes back; ANY or NONE in any of its fields. */
export interface AlarmTime {
  readonly second: number;
  readonly minute: number;
  readonly hour: number;
}

/** Whether a register is part of the time. */
export function isTimeRegister(index: number): boolean {
  return (index <= YEAR && index !== 1 && index !== 3 && index !== 5) || index === RTC_CENTURY;
}

/** @returns what each time register shows at a time in milliseconds since 1970 */
export function encodeTime(ms: number, control: number): (index: number) => number {
  const date = new Date(ms);
  const encode = (value: number): number =>
    (control & REGISTER_B_DM) !== 0 ? value : (Math.floor(value / 10) << 4) | (value % 10);
  return (index) => {
    switch (index) {
      case SECONDS:
        return encode(date.getUTCSeconds());
      case MINUTES:
        return encode(date.getUTCMinutes());
      case HOURS: {
        const hour = date.getUTCHours();
        if ((control & REGISTER_B_24H) !== 0) return encode(hour);
        return encode(hour % 12 || 12) | (hour >= 12 ? PM : 0);
      }
      case DAY_OF_WEEK:
        return encode(date.getUTCDay() + 1);
      case DAY:
        return encode(date.getUTCDate());
      case MONTH:
        return encode(date.getUTCMonth() + 1);
      case YEAR:
        return encode(date.getUTCFullYear() % 100);
      case RTC_CENTURY:
        return encode(Math.floor(date.getUTCFullYear() / 100) % 100);
      default:
        return 0;
    }
  };
}

/** The time in the registers, milliseconds since 1970; the day of the week follows from the date. */
export function decodeTime(register: (index: number) => number, control: number): number {
  const field = (index: number): number => decode(register(index), control);
  const year = field(RTC_CENTURY) * 100 + field(YEAR);
  const date = new Date(0);
  // Not Date.UTC, which takes the years 0 to 99 for those of the twentieth century.
  date.setUTCFullYear(year, field(MONTH) - 1, field(DAY));
  date.setUTCHours(decodeHour(register(HOURS), control), field(MINUTES), field(SECONDS));
  return date.getTime();
}

/** An alarm register. */
export function decodeField(value: number, control: number, kind: 'sixtieth' | 'hour'): number {
  if (value >= DONT_CARE) return ANY;
  const decoded = kind === 'hour' ? decodeHour(value, control) : decode(value, control);
  return decoded < (kind === 'hour' ? 24 : 60) ? decoded : NONE;
}

/** The first second after the given one (both since 1970) at which an alarm rings, or Infinity. */
export function nextAlarm(after: number, { hour, minute, second }: AlarmTime): number {
  if (hour === NONE || minute === NONE || second === NONE) return Infinity;
  let at = after + 1;
  for (;;) {
    if (hour !== ANY && modulo(Math.floor(at / 3600), 24) !== hour) {
      at = (Math.floor(at / 3600) + 1) * 3600;
    } else if (minute !== ANY && modulo(Math.floor(at / 60), 60) !== minute) {
      at = (Math.floor(at / 60) + 1) * 60;
    } else if (second !== ANY && modulo(at, 60) !== second) {
      at++;
    } else {
      return at;
    }
  }
}

/** The remainder that is never negative: a guest may set a time before 1970. */
export function modulo(value: number, divisor: number): number {
  return value - Math.floor(value / divisor) * divisor;
}

function decode(value: number, control: number): number {
  return (control & REGISTER_B_DM) !== 0 ? value : (value >> 4) * 10 + (value & 0xf);
}

function decodeHour(value: number, control: number): number {
  if ((control & REGISTER_B_24H) !== 0) return decode(value, control);
  return (decode(value & ~PM, control) % 12) + ((value & PM) !== 0 ? 12 : 0);
}
