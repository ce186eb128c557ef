/** The Generic Event Device (ACPI 6.5 §5.6.9). */
import t from 'tap';
import { EventDevice, GED_POWER_BUTTON } from '../../../src/platform/event-device.ts';
import { GED_GSI } from '../../../src/platform/layout.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

t.test('an event is an edge on its line, and is read once', async (t) => {
  const lines: unknown[] = [];
  const port = { setLine: (gsi: number, level: boolean) => lines.push([gsi, level]) };
  const buffer = SharedState.allocate(256);
  const device = new EventDevice(new SharedState(buffer), port);
  const elsewhere = new EventDevice(new SharedState(buffer), port);
  t.equal(device.read(), 0);
  device.raise(GED_POWER_BUTTON);
  t.same(lines, [
    [GED_GSI, true],
    [GED_GSI, false],
  ]);
  t.equal(elsewhere.read(), GED_POWER_BUTTON, 'in whatever thread the guest reads it');
  t.equal(device.read(), 0);
});

t.test('what was not read is gone after a reset; writes do nothing', async (t) => {
  const device = new EventDevice(new SharedState(SharedState.allocate(256)), { setLine: () => {} });
  device.raise(GED_POWER_BUTTON);
  device.write();
  device.reset();
  t.equal(device.read(), 0);
});
