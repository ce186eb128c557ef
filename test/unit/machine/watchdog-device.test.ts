/** The owner of a watchdog: when it looks, and what it does. */
import t from 'tap';
import type { PluggedBoard } from '../../../src/machine/devices/machine-device.ts';
import { ResourceAllocator } from '../../../src/machine/devices/resource-allocator.ts';
import { WatchdogMachineDevice } from '../../../src/machine/devices/watchdog-device.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { WatchdogPci } from '../../../src/watchdog/pci.ts';
import { CONFIGURATION, LOCK } from '../../../src/watchdog/registers.ts';
import { type WatchdogAction, WatchdogDevice } from '../../../src/watchdog/watchdog-type.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

const RELOAD = 0x0c;
const ENABLE = 2;

/** A watchdog in its machine, with a guest that writes to it. */
class Rig implements AsyncDisposable {
  readonly logs: string[] = [];
  readonly events: string[] = [];
  readonly owner: WatchdogMachineDevice;
  readonly #resources = new ResourceAllocator('io');
  #pci: WatchdogPci | undefined;

  constructor(action: WatchdogAction) {
    const device = new WatchdogDevice('watchdog0', { action });
    this.owner = new WatchdogMachineDevice(device, (text) => this.logs.push(text));
  }

  plug(): void {
    const { plan } = this.owner.plan(this.#resources);
    const state = new SharedState(SharedState.allocate(0x1000));
    const changed = (): void => this.owner.message({ kind: 'changed', device: 0 });
    const pci = new WatchdogPci(state, new FakeInterrupts(), plan, changed);
    pci.reset();
    const board = {
      state,
      device: () => ({ registers: pci }),
      power: (event: string) => this.events.push(event),
    };
    this.owner.plug(board as unknown as PluggedBoard);
    this.#pci = pci;
  }

  get pci(): WatchdogPci {
    if (this.#pci === undefined) throw new Error('not plugged in');
    return this.#pci;
  }

  write(offset: number, value: number): void {
    const { registers } = this.pci;
    for (const unlock of [0x80, 0x86]) registers.write(RELOAD, 2, unlock);
    registers.write(offset, 4, value);
  }

  /** Starts it with both stages of so many units, of about a millisecond. */
  start(units: number): void {
    this.write(0, units);
    this.write(4, units);
    this.pci.pciFunction.writeConfig(LOCK, 1, ENABLE);
  }

  /** Resolves when the owner has acted. */
  async acted(): Promise<void> {
    while (this.events.length === 0 && this.logs.length === 0) {
      await new Promise((done) => setTimeout(done, 2));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owner.unplug();
    await this.owner.close();
    this.#resources.close();
  }
}

for (const [action, event] of [
  ['reset', 'reboot'],
  ['exit', 'watchdog'],
] as const) {
  t.test(`a guest that does not restart it: ${action}`, async (t) => {
    await using rig = new Rig(action);
    rig.plug();
    rig.start(5);
    await rig.acted();
    t.same(rig.events, [event]);
    t.match(rig.logs, [/^watchdog0: the guest did not restart it in time: it/]);
    await rig.owner.unplug();
    rig.plug();
    t.equal(rig.pci.registers.read(RELOAD, 2), action === 'reset' ? 0x200 : 0, 'it says so');
    await rig.owner.unplug();
    rig.plug();
    t.equal(rig.pci.registers.read(RELOAD, 2), 0, 'once');
  });
}

t.test('none only says so, once until it is restarted', async (t) => {
  await using rig = new Rig('none');
  rig.plug();
  rig.start(5);
  await rig.acted();
  t.same(rig.events, []);
  t.equal(rig.pci.registers.deadlineMs, Infinity);
  rig.write(RELOAD, 0x100);
  t.not(rig.pci.registers.deadlineMs, Infinity);
});

t.test('nothing happens while it is off, or has no output', async (t) => {
  await using rig = new Rig('reset');
  rig.plug();
  rig.start(5);
  rig.pci.pciFunction.writeConfig(CONFIGURATION, 2, 1 << 5);
  await new Promise((done) => setTimeout(done, 50));
  rig.pci.pciFunction.writeConfig(LOCK, 1, 0);
  t.equal(rig.pci.pciFunction.readConfig(LOCK, 1), 0);
  rig.pci.pciFunction.writeConfig(CONFIGURATION, 2, 0);
  await new Promise((done) => setTimeout(done, 50));
  t.same(rig.events, []);
});

t.test('time in which the machine is paused does not count', async (t) => {
  await using rig = new Rig('reset');
  rig.plug();
  rig.start(500);
  const before = rig.pci.registers.deadlineMs;
  await rig.owner.pause();
  await new Promise((done) => setTimeout(done, 30));
  await rig.owner.resume();
  t.ok(rig.pci.registers.deadlineMs >= before + 29);
  await rig.owner.resume();
  t.ok(rig.pci.registers.deadlineMs < before + 500, 'a second time changes nothing');
});

t.test('the lock in configuration space shows that it is on for good', async (t) => {
  await using rig = new Rig('reset');
  rig.plug();
  const { pciFunction } = rig.pci;
  t.equal(pciFunction.readConfig(0, 4), 0x25ab_8086);
  pciFunction.writeConfig(LOCK, 1, 3);
  pciFunction.writeConfig(LOCK, 1, 0);
  t.equal(pciFunction.readConfig(LOCK, 1), 3);
  pciFunction.writeConfig(CONFIGURATION, 1, 0xff);
  t.equal(pciFunction.readConfig(CONFIGURATION, 1), 0x27);
});
