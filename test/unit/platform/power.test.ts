/** How a guest ends its run: ACPI, keyboard controller, pvpanic. */
import t from 'tap';
import { GED_GSI } from '../../../src/platform/layout.ts';
import {
  createKeyboardController,
  createPvpanic,
  createResetRegister,
  EventDevice,
  GED_GENERATION,
  type PowerEvent,
} from '../../../src/platform/power.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

function record<T>(create: (happened: (event: PowerEvent) => void) => T): [T, PowerEvent[]] {
  const events: PowerEvent[] = [];
  return [create((event) => events.push(event)), events];
}

t.test('ACPI 6.5 §4.8.3.6 the reset value resets, others do not', async (t) => {
  const [register, events] = record(createResetRegister);
  register.write(0, 1, 0);
  register.write(0, 1, 2);
  t.same(events, []);
  t.equal(register.read(0, 1), 0);
  register.write(0, 1, 1);
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

// The Generic Event Device (ACPI 6.5 §5.6.9).

t.test('an event is an edge on its line, and is read once', async (t) => {
  const lines: unknown[] = [];
  const port = { setLine: (gsi: number, level: boolean) => lines.push([gsi, level]) };
  const buffer = SharedState.allocate(256);
  const device = new EventDevice(new SharedState(buffer), port);
  const elsewhere = new EventDevice(new SharedState(buffer), port);
  t.equal(device.read(), 0);
  device.raise(GED_GENERATION);
  t.same(lines, [
    [GED_GSI, true],
    [GED_GSI, false],
  ]);
  t.equal(elsewhere.read(), GED_GENERATION, 'in whatever thread the guest reads it');
  t.equal(device.read(), 0);
});

t.test('what was not read is gone after a reset; writes do nothing', async (t) => {
  const device = new EventDevice(new SharedState(SharedState.allocate(256)), { setLine: () => {} });
  device.raise(GED_GENERATION);
  device.write();
  device.reset();
  t.equal(device.read(), 0);
});
