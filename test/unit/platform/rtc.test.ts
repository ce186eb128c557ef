/** The CMOS clock (MC146818A): time in BCD, UTC. */
import t from 'tap';
import { Rtc } from '../../../src/platform/rtc.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

function clock(at: string): (index: number) => number {
  const rtc = new Rtc(new SharedState(SharedState.allocate(256)), () => new Date(at));
  return (index) => {
    rtc.write(0, 1, index);
    return rtc.read(1, 1);
  };
}

t.test('table 3: time and date read as BCD, the hour of 24', async (t) => {
  const read = clock('2039-12-31T23:58:59Z');
  t.same(
    [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(read),
    [0x59, 0x58, 0x23, 7, 0x31, 0x12, 0x39, 0x20],
    'a Saturday is the seventh day',
  );
});

t.test('table 3: the first of the year', async (t) => {
  const read = clock('2000-01-02T00:00:00Z');
  t.same(
    [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(read),
    [0, 0, 0, 1, 2, 1, 0, 0x20],
    'a Sunday is the first day',
  );
});

t.test('register A: the divider runs, no update is in progress', async (t) => {
  t.equal(clock('2026-01-01T00:00:00.500Z')(0x0a), 0x26);
});

t.test('register A: an update is in progress shortly before the second turns', async (t) => {
  t.equal(clock('2026-01-01T00:00:00.999Z')(0x0a), 0xa6);
});

t.test('registers B, C, D: BCD and 24 hours, no interrupts, valid time', async (t) => {
  const read = clock('2026-01-01T00:00:00Z');
  t.same([0x0b, 0x0c, 0x0d].map(read), [0x02, 0, 0x80]);
});

t.test('the NMI mask bit is no part of the index', async (t) => {
  t.equal(clock('2026-01-01T00:00:42Z')(0x80), 0x42);
});

t.test(
  'the index port cannot be read, other registers are 0, wide accesses are none',
  async (t) => {
    const rtc = new Rtc(new SharedState(SharedState.allocate(256)));
    t.equal(rtc.read(0, 1), 0xff);
    rtc.write(0, 1, 0x40);
    t.equal(rtc.read(1, 1), 0);
    t.equal(rtc.read(0, 2), 0xffff);
    rtc.write(1, 1, 0x55);
    t.equal(rtc.read(1, 1), 0);
  },
);
