/** The CMOS clock (MC146818A): time, alarm, interrupts, RAM. */
import fc from 'fast-check';
import t from 'tap';
import { RTC_GSI } from '../../../src/platform/layout.ts';
import { Rtc } from '../../../src/platform/rtc.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

const SET = 0x80;
const PIE = 0x40;
const AIE = 0x20;
const UIE = 0x10;
const BINARY = 0x04;
const HOURS_24 = 0x02;
const TIME = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32];

/** A clock on a host whose time the test advances. */
class Rig {
  now: number;
  /** Milliseconds to the interrupt that it armed for. */
  armed = Infinity;
  arms = 0;
  level = false;
  /** Alarms that the guest enabled. */
  rings = 0;
  readonly rtc: Rtc;

  constructor(at: string) {
    this.now = Date.parse(at);
    this.rtc = new Rtc(new SharedState(SharedState.allocate(1024)), {
      wallMs: () => this.now,
      monotonicMs: () => this.now - Date.parse(at),
      arm: (delayMs) => {
        this.armed = delayMs;
        this.arms++;
      },
      setLine: (gsi, level) => {
        if (gsi !== RTC_GSI) throw new Error(`line ${gsi}`);
        this.level = level;
      },
      rung: () => this.rings++,
    });
    this.rtc.reset();
  }

  readonly read = (index: number): number => {
    this.rtc.write(0, 1, index);
    return this.rtc.read(1, 1);
  };

  write(index: number, value: number): void {
    this.rtc.write(0, 1, index);
    this.rtc.write(1, 1, value);
  }

  /** Lets the time go by that it armed for. */
  expire(): void {
    this.now += this.armed;
    this.armed = Infinity;
    this.rtc.expire();
  }
}

t.test('table 3: time and date read as BCD, the hour of 24', async (t) => {
  const { read } = new Rig('2039-12-31T23:58:59Z');
  t.same(
    TIME.map(read),
    [0x59, 0x58, 0x23, 7, 0x31, 0x12, 0x39, 0x20],
    'a Saturday is the seventh day',
  );
});

t.test('table 3: the first of the year', async (t) => {
  const { read } = new Rig('2000-01-02T00:00:00Z');
  t.same(TIME.map(read), [0, 0, 0, 1, 2, 1, 0, 0x20], 'a Sunday is the first day');
});

t.test('register B: binary, and the hour of 12', async (t) => {
  const rig = new Rig('2039-12-31T23:58:59Z');
  rig.write(0x0b, BINARY | HOURS_24);
  t.same(TIME.map(rig.read), [59, 58, 23, 7, 31, 12, 39, 20]);
  rig.write(0x0b, 0);
  t.equal(rig.read(4), 0x91, '11 in the evening');
  rig.now = Date.parse('2040-01-01T00:00:00Z');
  t.equal(rig.read(4), 0x12, 'midnight');
  rig.now = Date.parse('2040-01-01T12:00:00Z');
  t.equal(rig.read(4), 0x92, 'noon');
});

t.test('register A: the divider runs; an update shows shortly before the second', async (t) => {
  t.equal(new Rig('2026-01-01T00:00:00.500Z').read(0x0a), 0x26);
  t.equal(new Rig('2026-01-01T00:00:00.999Z').read(0x0a), 0xa6);
});

t.test('registers B, C, D: BCD and 24 hours, no flags, valid time', async (t) => {
  const { read } = new Rig('2026-01-01T00:00:00Z');
  t.same([0x0b, 0x0c, 0x0d].map(read), [HOURS_24, 0, 0x80]);
});

t.test('ports: the NMI mask is no part of the index; wide accesses are none', async (t) => {
  const { rtc, read } = new Rig('2026-01-01T00:00:42Z');
  t.equal(read(0x80), 0x42);
  t.equal(rtc.read(0, 1), 0xff, 'the index cannot be read');
  t.equal(rtc.read(0, 2), 0xffff);
  rtc.write(0, 2, 0x0b);
  t.equal(rtc.read(1, 1), 0x42, 'nor written wide');
});

t.test('the RAM behind the clock keeps what is written; C and D cannot be', async (t) => {
  const rig = new Rig('2026-01-01T00:00:00Z');
  rig.write(0x40, 0x55);
  rig.write(0x0c, 0xff);
  rig.write(0x0d, 0);
  t.same([0x40, 0x0c, 0x0d].map(rig.read), [0x55, 0, 0x80]);
  rig.rtc.reset();
  t.equal(rig.read(0x40), 0);
});

t.test('the time is set in pieces while SET stops it, and continues from there', async (t) => {
  const rig = new Rig('2026-05-05T05:05:05Z');
  rig.write(0x0b, SET | HOURS_24);
  rig.now += 5000;
  t.equal(rig.read(0), 0x05, 'the clock has stopped');
  [0x59, 0x59, 0x23, 0, 0x31, 0x12, 0x99, 0x19].forEach((value, at) => {
    rig.write(TIME[at] as number, value);
  });
  rig.write(0x0b, HOURS_24);
  t.same(TIME.map(rig.read), [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19]);
  rig.now += 1000;
  t.same(TIME.map(rig.read), [0, 0, 0, 7, 1, 1, 0, 0x20], 'the first of January 2000');
  rig.write(2, 0x30);
  t.same([4, 2, 0].map(rig.read), [0, 0x30, 0], 'without SET as well');
});

t.test('update-ended: each second, once a read of C', async (t) => {
  const rig = new Rig('2026-01-01T00:00:00.250Z');
  rig.write(0x0b, HOURS_24 | UIE);
  t.equal(rig.armed, 750);
  t.notOk(rig.level);
  rig.expire();
  t.ok(rig.level);
  t.equal(rig.armed, Infinity, 'nothing runs until the guest acknowledges');
  t.equal(rig.read(0x0c) & 0xb0, 0x90);
  t.notOk(rig.level);
  t.equal(rig.armed, 1000);
  t.equal(rig.read(0x0c), 0);
});

t.test('flags are set without their interrupts, which come when enabled', async (t) => {
  const rig = new Rig('2026-01-01T00:00:00Z');
  rig.now += 1500;
  t.equal(rig.arms, 0, 'nothing ticks');
  rig.write(0x0b, HOURS_24 | UIE);
  t.ok(rig.level, 'the flag was set already');
  t.equal(rig.read(0x0c) & 0x90, 0x90);
  rig.now += 1000;
  rig.write(0x0b, HOURS_24);
  t.equal(rig.read(0x0c) & 0x90, 0x10);
});

t.test('the alarm rings once a day, or whenever what it cares for matches', async (t) => {
  const rig = new Rig('2026-01-01T22:59:58Z');
  const alarm = (hour: number, minute: number, second: number): number => {
    rig.write(0x0b, HOURS_24);
    rig.read(0x0c);
    [second, minute, hour].forEach((value, at) => {
      rig.write(1 + 2 * at, value);
    });
    rig.write(0x0b, HOURS_24 | AIE);
    return rig.armed / 1000;
  };
  t.equal(alarm(0x23, 0x00, 0x00), 2);
  rig.expire();
  t.ok(rig.level);
  t.equal(rig.rings, 1);
  t.equal(rig.read(0x0c) & 0xa0, 0xa0);
  t.equal(rig.armed, 86_400_000, 'the same time tomorrow');
  t.equal(alarm(0x22, 0x59, 0x59), 24 * 3600 - 1, 'just missed');
  t.equal(alarm(0xc0, 0xff, 0x05), 5, 'each minute');
  t.equal(alarm(0xff, 0x30, 0x10), 30 * 60 + 10, 'each hour');
  t.equal(alarm(0xff, 0xff, 0xff), 1, 'each second');
  t.equal(alarm(0x24, 0x00, 0x00), Infinity, 'no such hour');
  t.equal(alarm(0x00, 0x60, 0x00), Infinity, 'no such minute');
  rig.write(0x0b, BINARY | HOURS_24);
  rig.write(5, 23);
  rig.write(0x0b, BINARY | HOURS_24 | AIE);
  rig.write(3, 1);
  rig.write(1, 2);
  t.equal(rig.armed / 1000, 62, 'in binary');
});

t.test('periodic: at the rate of register A', async (t) => {
  const rig = new Rig('2026-01-01T00:00:00Z');
  for (const [rate, hertz] of [
    [1, 256],
    [2, 128],
    [3, 8192],
    [6, 1024],
    [15, 2],
  ] as const) {
    rig.write(0x0b, HOURS_24);
    rig.write(0x0a, 0x20 | rate);
    rig.write(0x0b, HOURS_24 | PIE);
    rig.read(0x0c);
    rig.now = Date.parse('2026-01-01T00:00:00Z');
    rig.read(0x0c);
    t.equal(rig.armed, 1000 / hertz, `rate ${rate}`);
    rig.expire();
    t.equal(rig.read(0x0c) & 0xc0, 0xc0);
  }
  rig.write(0x0a, 0x20);
  t.equal(rig.armed, Infinity, 'rate 0 is none');
});

t.test('a reset takes interrupts and the time that was set away', async (t) => {
  const rig = new Rig('2026-01-01T00:00:00Z');
  rig.write(9, 0x99);
  rig.write(0x0b, HOURS_24 | UIE);
  rig.expire();
  t.ok(rig.level);
  rig.rtc.reset();
  t.notOk(rig.level);
  t.equal(rig.armed, Infinity);
  t.same([9, 0x0b].map(rig.read), [0x26, HOURS_24]);
});

t.test('a sleep leaves time, RAM, and the alarm, which may ring meanwhile', async (t) => {
  const rig = new Rig('2026-01-01T10:00:00Z');
  rig.write(0x40, 0x5a);
  rig.write(0x04, 0x12);
  rig.write(0x05, 0x12);
  rig.write(0x03, 0x00);
  rig.write(0x01, 0x07);
  rig.write(0x0b, HOURS_24 | AIE);
  const saved = rig.rtc.save();
  const woken = new Rig('2026-01-01T10:00:03Z');
  woken.rtc.restore(saved);
  t.same([woken.read(0x04), woken.read(0x00), woken.read(0x40)], [0x12, 0x03, 0x5a]);
  t.equal(woken.armed, 4000);
  t.notOk(woken.level);
  const late = new Rig('2026-01-01T10:00:09Z');
  late.rtc.restore(saved);
  t.ok(late.level);
  t.equal(late.rings, 1);
});

t.test('whatever a guest writes, registers stay bytes and the delay is sound', async () => {
  const step = fc.record({
    index: fc.nat(0x7f),
    value: fc.nat(0xff),
    wait: fc.nat(100_000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const rig = new Rig('2026-01-01T00:00:00Z');
      for (const { index, value, wait } of steps) {
        rig.write(index, value);
        rig.now += wait;
        const read = rig.read(index);
        if (!Number.isInteger(read) || read < 0 || read > 0xff) return false;
        if (!(rig.armed > 0)) return false;
        if (rig.armed !== Infinity && rig.armed > 86_400_000) return false;
      }
      return true;
    }),
  );
});
