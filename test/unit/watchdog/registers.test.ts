/** The 6300ESB's watchdog timer (data sheet 300641-004 §15), as Linux's driver uses it. */
import fc from 'fast-check';
import t from 'tap';
import { SharedState } from '../../../src/state/shared-state.ts';
import { WatchdogRegisters } from '../../../src/watchdog/registers.ts';

const PRELOAD1 = 0x00;
const PRELOAD2 = 0x04;
const RELOAD = 0x0c;
const ENABLE = 2;
const LOCK = 1;

class Rig {
  now = 1000;
  changes = 0;
  readonly registers: WatchdogRegisters;

  constructor() {
    this.registers = new WatchdogRegisters(new SharedState(SharedState.allocate(256)), {
      monotonicMs: () => this.now,
      changed: () => {
        this.changes++;
      },
    });
    this.registers.powerOn();
  }

  /** A write behind the two that unlock. */
  write(offset: number, value: number): void {
    this.registers.write(RELOAD, 2, 0x80);
    this.registers.write(RELOAD, 2, 0x86);
    this.registers.write(offset, offset === RELOAD ? 2 : 4, value);
  }

  /** As the driver starts it: half of the time for each stage. */
  start(seconds: number): void {
    this.write(PRELOAD1, seconds << 9);
    this.write(PRELOAD2, seconds << 9);
    this.write(RELOAD, 0x100);
    this.registers.lock(ENABLE);
  }

  /** Milliseconds to the end of the second stage. */
  get left(): number {
    return this.registers.deadlineMs - this.now;
  }
}

t.test('the timer runs for both stages in units of about 1 ms, and can be restarted', async (t) => {
  const rig = new Rig();
  t.equal(rig.left, Infinity);
  rig.start(30);
  t.ok(Math.abs(rig.left - 30_200) < 50, `${rig.left} ms`);
  rig.now += 20_000;
  t.ok(Math.abs(rig.left - 10_200) < 50);
  rig.write(RELOAD, 0x100);
  t.ok(Math.abs(rig.left - 30_200) < 50);
});

t.test('§15.1.2 in units of about 1 us', async (t) => {
  const rig = new Rig();
  rig.registers.configure(1 << 2);
  rig.start(1000);
  t.ok(rig.left > 900 && rig.left < 1100, `${rig.left} ms`);
});

t.test('§15.2.5 without the two writes before it, a write does nothing', async (t) => {
  const rig = new Rig();
  const { registers } = rig;
  registers.write(PRELOAD1, 4, 5);
  t.equal(registers.read(PRELOAD1, 4), 0xf_ffff);
  registers.write(RELOAD, 2, 0x80);
  registers.write(PRELOAD1, 4, 5);
  t.equal(registers.read(PRELOAD1, 4), 0xf_ffff, 'one of the two');
  registers.write(RELOAD, 2, 0x86);
  registers.write(RELOAD, 2, 0x80);
  registers.write(PRELOAD1, 4, 5);
  t.equal(registers.read(PRELOAD1, 4), 0xf_ffff, 'in the wrong order');
  rig.write(PRELOAD1, 0xffff_fff5);
  t.equal(registers.read(PRELOAD1, 4), 0xf_fff5, '20 bits');
  t.equal(registers.read(PRELOAD1, 2), 0xfff5);
  t.equal(registers.read(PRELOAD1 + 2, 1), 0x0f);
  registers.write(PRELOAD1, 4, 6);
  t.equal(registers.read(PRELOAD1, 4), 0xf_fff5, 'once');
});

t.test('§15.1.3 the lock keeps the timer on until the next reset', async (t) => {
  const rig = new Rig();
  rig.start(1);
  t.equal(rig.registers.lock(0), 0);
  t.equal(rig.left, Infinity);
  t.equal(rig.registers.lock(ENABLE | LOCK), 3);
  t.equal(rig.registers.lock(0), 3);
  t.not(rig.left, Infinity);
  rig.registers.powerOn();
  t.equal(rig.registers.lock(0), 0);
});

t.test('the reset that it caused shows until it is cleared', async (t) => {
  const rig = new Rig();
  rig.registers.powerOn(true);
  t.equal(rig.registers.read(RELOAD, 2), 0x200);
  rig.write(RELOAD, 0x200);
  t.equal(rig.registers.read(RELOAD, 2), 0);
});

t.test('the output of the second stage can be turned off', async (t) => {
  const rig = new Rig();
  t.ok(rig.registers.resets);
  rig.registers.configure(1 << 5);
  t.notOk(rig.registers.resets);
});

t.test('a guest that restarts it without end is announced once', async (t) => {
  const rig = new Rig();
  rig.start(10);
  t.equal(rig.changes, 1);
  for (let i = 0; i < 1000; i++) {
    rig.now++;
    rig.write(RELOAD, 0x100);
  }
  t.equal(rig.changes, 1, 'the owner looks when the first deadline comes');
  rig.start(1);
  rig.write(RELOAD, 0x100);
  t.equal(rig.changes, 2, 'a shorter time is announced');
  rig.registers.armed(rig.registers.deadlineMs);
  rig.write(RELOAD, 0x100);
  t.equal(rig.changes, 2);
});

t.test(
  'whatever a guest writes: no more announcements than looks, plus shorter times',
  async () => {
    const access = fc.record({
      offset: fc.constantFrom(PRELOAD1, PRELOAD2, RELOAD, 8, 1, 13),
      value: fc.nat(0xffff_ffff),
      lock: fc.option(fc.nat(255), { nil: undefined }),
      pause: fc.nat(10_000),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
        const rig = new Rig();
        let shortest = Infinity;
        for (const { offset, value, lock, pause } of accesses) {
          rig.now += pause;
          const before = rig.changes;
          rig.write(offset, value);
          if (lock !== undefined) rig.registers.lock(lock);
          if (rig.changes === before) continue;
          const deadline = rig.registers.deadlineMs;
          // Each announcement is of a deadline before the last one that was announced.
          if (!(deadline < shortest)) throw new Error(`${deadline} after ${shortest}`);
          shortest = deadline;
        }
      }),
    );
  },
);
