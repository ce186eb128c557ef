/** How a guest ends its run: ACPI, keyboard controller, pvpanic. */
import t from 'tap';
import {
  createKeyboardController,
  createPowerRegisters,
  createPvpanic,
  type PowerEvent,
} from '../../../src/platform/power.ts';

function record<T>(create: (happened: (event: PowerEvent) => void) => T): [T, PowerEvent[]] {
  const events: PowerEvent[] = [];
  return [create((event) => events.push(event)), events];
}

t.test('ACPI 6.5 §4.8.3.7 SLP_EN with the type of S5 powers off', async (t) => {
  const [registers, events] = record(createPowerRegisters);
  registers.write(0, 1, 0x34);
  t.same(events, ['power-off']);
});

t.test('ACPI 6.5 §4.8.3.7 bits that are reserved or ignored do not matter', async (t) => {
  const [registers, events] = record(createPowerRegisters);
  registers.write(0, 1, 0xf7);
  t.same(events, ['power-off']);
});

t.test('ACPI 6.5 §4.8.3.7 other sleep types, or no SLP_EN, do nothing', async (t) => {
  const [registers, events] = record(createPowerRegisters);
  for (const value of [0, 0x14, 0x20, 0x24, 0x3c]) registers.write(0, 1, value);
  registers.write(1, 1, 0x80);
  t.same(events, []);
  t.equal(registers.read(1, 1), 0);
});

t.test('ACPI 6.5 §4.8.3.6 the reset value resets, others do not', async (t) => {
  const [registers, events] = record(createPowerRegisters);
  registers.write(2, 1, 0);
  registers.write(2, 1, 2);
  t.same(events, []);
  registers.write(2, 1, 1);
  t.same(events, ['reboot']);
});

t.test('the keyboard controller resets on 0xfe only, and is never busy', async (t) => {
  const [keyboard, events] = record(createKeyboardController);
  keyboard.write(0, 1, 0xd1);
  t.same(events, []);
  t.equal(keyboard.read(0, 1), 0);
  keyboard.write(0, 1, 0xfe);
  t.same(events, ['reboot']);
});

t.test(
  'pvpanic shows its events; a panic ends the run, unless a crash kernel follows',
  async (t) => {
    const [pvpanic, events] = record(createPvpanic);
    t.equal(pvpanic.read(0, 1), 3);
    pvpanic.write(0, 1, 0);
    pvpanic.write(0, 1, 4);
    t.same(events, []);
    pvpanic.write(0, 1, 2);
    t.same(events, []);
    pvpanic.write(0, 1, 1);
    t.same(events, ['panic']);
  },
);
