/** How the CMOS clock writes time: BCD or binary, 24 or 12 hours, as its register B says. */

const SECONDS = 0x00;
const MINUTES = 0x02;
const HOURS = 0x04;
const DAY_OF_WEEK = 0x06;
const DAY = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
/** No register of the chip, but where PCs keep it. */
const CENTURY = 0x32;

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
  return (index <= YEAR && index !== 1 && index !== 3 && index !== 5) || index === CENTURY;
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
      case CENTURY:
        return encode(Math.floor(date.getUTCFullYear() / 100) % 100);
      default:
        return 0;
    }
  };
}

/** The time in the registers, milliseconds since 1970; the day of the week follows from the date. */
export function decodeTime(register: (index: number) => number, control: number): number {
  const field = (index: number): number => decode(register(index), control);
  const year = field(CENTURY) * 100 + field(YEAR);
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
