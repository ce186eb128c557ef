/** ACPI fixed hardware: PM1 status, enable and control registers (ACPI 6.5 §4.8.3.1, §4.8.3.2). */
import t from 'tap';
import { SCI_GSI } from '../../../src/platform/layout.ts';
import {
  PM1_POWER_BUTTON,
  PM1_RTC,
  PM1_SLEEP_BUTTON,
  PM1_WAKE,
  Pm1,
} from '../../../src/platform/pm1.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

const STATUS = 0;
const ENABLE = 2;
const CONTROL = 4;

function rig() {
  const lines: (readonly [number, boolean])[] = [];
  const happened: string[] = [];
  const buffer = SharedState.allocate(256);
  const make = (): Pm1 =>
    new Pm1(
      new SharedState(buffer),
      { setLine: (gsi, level) => lines.push([gsi, level]) },
      (event) => happened.push(event),
    );
  return { pm1: make(), elsewhere: make(), lines, happened };
}

t.test('§4.8.3.1.1 an event sets its status bit; writing a one clears it', async (t) => {
  const { pm1, elsewhere } = rig();
  t.equal(pm1.read(STATUS, 2), 0);
  pm1.raise(PM1_POWER_BUTTON | PM1_SLEEP_BUTTON);
  t.equal(elsewhere.read(STATUS, 2), 0x300, 'in every thread');
  pm1.write(STATUS, 2, PM1_POWER_BUTTON);
  t.equal(pm1.read(STATUS, 2), PM1_SLEEP_BUTTON);
  pm1.write(STATUS, 2, 0);
  t.equal(pm1.read(STATUS, 2), PM1_SLEEP_BUTTON, 'zeros leave it');
  pm1.write(STATUS + 1, 1, 0xff);
  t.equal(pm1.read(STATUS, 2), 0, 'byte by byte as well');
});

t.test('§4.8.3.1.2 the SCI is high while an enabled event waits', async (t) => {
  const { pm1, lines } = rig();
  pm1.raise(PM1_RTC);
  t.same(lines, [], 'not enabled');
  pm1.write(ENABLE, 2, PM1_RTC | PM1_POWER_BUTTON);
  t.same(lines.splice(0), [[SCI_GSI, true]]);
  pm1.raise(PM1_POWER_BUTTON);
  pm1.write(STATUS, 2, PM1_RTC);
  t.same(lines, [], 'another event still waits');
  t.equal(pm1.pending, PM1_POWER_BUTTON);
  pm1.write(STATUS, 2, PM1_POWER_BUTTON);
  t.same(lines, [[SCI_GSI, false]]);
});

t.test('§4.8.3.1.2 disabling an event lowers the SCI, and keeps the status', async (t) => {
  const { pm1, lines } = rig();
  pm1.write(ENABLE, 2, PM1_SLEEP_BUTTON);
  pm1.raise(PM1_SLEEP_BUTTON);
  pm1.write(ENABLE, 2, 0);
  t.same(lines, [
    [SCI_GSI, true],
    [SCI_GSI, false],
  ]);
  t.equal(pm1.read(STATUS, 2), PM1_SLEEP_BUTTON);
});

t.test('§4.8.3.1.2 bits without an event cannot be enabled; waking raises no SCI', async (t) => {
  const { pm1, lines } = rig();
  pm1.write(ENABLE, 2, 0xffff);
  t.equal(pm1.read(ENABLE, 2), 0x720);
  pm1.raise(PM1_WAKE);
  t.equal(pm1.read(STATUS, 2), 0x8000);
  t.same(lines, []);
});

t.test('§4.8.3.2.1 ACPI mode is on for good, and SLP_EN reads as 0', async (t) => {
  const { pm1 } = rig();
  t.equal(pm1.read(CONTROL, 2), 1);
  pm1.write(CONTROL, 2, 0x3c00);
  t.equal(pm1.read(CONTROL, 2), 0x1c01);
});

t.test('§4.8.3.2.1 SLP_EN enters the state of SLP_TYP, if there is one', async (t) => {
  const { pm1, happened } = rig();
  const states: [number, string[]][] = [
    [0x2000 | (5 << 10), ['power-off']],
    [0x2000 | (1 << 10), ['suspend']],
    [5 << 10, []],
    [0x2000, []],
    [0x2000 | (2 << 10), []],
    [0x2000 | (7 << 10), []],
    [0xe3ff | (5 << 10), ['power-off']],
  ];
  for (const [value, events] of states) {
    pm1.write(CONTROL, 2, value);
    t.same(happened.splice(0), events, value.toString(16));
    pm1.write(CONTROL + 1, 1, value >> 8);
    t.same(happened.splice(0), events, `${value.toString(16)}, by its upper byte`);
  }
  pm1.write(CONTROL, 1, 0xff);
  t.same(happened, []);
});

t.test('accesses of four bytes reach two registers', async (t) => {
  const { pm1 } = rig();
  pm1.raise(PM1_RTC);
  pm1.write(STATUS, 4, (PM1_POWER_BUTTON << 16) | PM1_RTC);
  t.equal(pm1.read(STATUS, 4), PM1_POWER_BUTTON * 2 ** 16);
  t.equal(pm1.read(ENABLE, 4), 0x1_0000 + PM1_POWER_BUTTON);
});

t.test('a reset forgets all', async (t) => {
  const { pm1 } = rig();
  pm1.write(ENABLE, 2, PM1_RTC);
  pm1.raise(PM1_RTC);
  pm1.reset();
  t.equal(pm1.read(STATUS, 4), 0);
  t.equal(pm1.pending, 0);
});
