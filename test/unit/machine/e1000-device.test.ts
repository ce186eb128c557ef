/** The owner of an emulated network card: when its data half runs. */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import { E1000MachineDevice } from '../../../src/machine/devices/e1000-device.ts';
import type { PluggedBoard } from '../../../src/machine/devices/machine-device.ts';
import { ResourceAllocator } from '../../../src/machine/devices/resource-allocator.ts';
import type { E1000Device } from '../../../src/nic/device.ts';
import { E1000Rig, MAC } from '../../support/rigs/e1000.ts';
import { FakeDatapath } from '../../support/rigs/machine-device.ts';

const VM_FD = 99;

/** A card in a rig whose data half is not started, with its owner. */
class NicRig implements AsyncDisposable {
  readonly rig = new E1000Rig();
  readonly logs: string[] = [];
  readonly owner: E1000MachineDevice;
  readonly datapath: FakeDatapath;
  closed = 0;
  readonly #resources = new ResourceAllocator('io');

  constructor() {
    let datapath: FakeDatapath | undefined;
    const device = {
      name: 'test0',
      macBytes: MAC,
      close: () => {
        this.closed++;
      },
    } as unknown as E1000Device;
    this.owner = new E1000MachineDevice(
      device,
      (text) => this.logs.push(text),
      (_device, events) => {
        datapath = new FakeDatapath(events);
        return datapath;
      },
    );
    this.datapath = datapath as unknown as FakeDatapath;
  }

  plug(): Promise<void> {
    const { state, card, ram } = this.rig;
    const device = () => ({ registers: card });
    this.owner.plan(this.#resources);
    this.owner.plug({ state, vmFd: VM_FD, device } as unknown as PluggedBoard, ram.memory.share);
    return this.settled();
  }

  /** Steps of the owner run one after the other, and none of the fake's waits. */
  async settled(): Promise<void> {
    for (let i = 0; i < 20; i++) await new Promise((done) => setImmediate(done));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owner.unplug();
    await this.owner.close();
    this.#resources.close();
    this.rig[Symbol.dispose]();
  }
}

t.test('the data half runs from power-on, and learns where the registers are', async (t) => {
  await using o = new NicRig();
  t.same(o.datapath.take(), []);
  await o.plug();
  t.same(o.datapath.take(), ['start ']);
  const { words } = o.rig.card.registers.file;
  t.match(o.datapath.posted, [{ kick: o.rig.kick.fd, vmFd: VM_FD }]);
  t.equal((o.datapath.posted[0] as { words: unknown }).words, words);
  await o.owner.unplug();
  t.same(o.datapath.take(), ['stop']);
  await o.plug();
  t.same(o.datapath.take(), ['start '], 'and from the next power-on');
});

t.test('a pause releases the rings', async (t) => {
  await using o = new NicRig();
  await o.plug();
  o.datapath.take();
  await o.owner.pause();
  t.same(o.datapath.take(), ['stop']);
  await o.owner.unplug();
  await o.plug();
  t.same(o.datapath.take(), [], 'also of a board that comes meanwhile');
  await o.owner.resume();
  t.same(o.datapath.take(), ['start ']);
});

t.test('a broken card is reported once, and restarts with its reset', async (t) => {
  await using o = new NicRig();
  await o.plug();
  o.datapath.take();
  o.datapath.events.broken('a rule');
  t.same(o.logs, ['test0: stopped: a rule']);
  t.ok(o.rig.card.registers.file.broken);
  await o.owner.pause();
  await o.owner.resume();
  t.same(o.datapath.take(), ['stop'], 'not before');
  o.rig.write(e1000.CTRL, e1000.CTRL_RST);
  t.equal(o.rig.revived, 1);
  o.owner.message({ kind: 'changed', device: 0 });
  await o.settled();
  t.same(o.datapath.take(), ['start ']);
});

t.test('a host that fails stops the card', async (t) => {
  await using o = new NicRig();
  o.datapath.failStart = new Error('no memory');
  await o.plug();
  t.same(o.logs, ['test0: stopped: no memory']);
  o.datapath.failStart = undefined;
  o.rig.write(e1000.CTRL, e1000.CTRL_RST);
  o.owner.message({ kind: 'changed', device: 0 });
  await o.settled();
  o.datapath.failStop = new Error('no thread');
  await o.owner.pause();
  t.same(o.logs.slice(1), ['test0: stopped: no thread']);
});

t.test('closing releases thread and tap', async (t) => {
  const o = new NicRig();
  await o.plug();
  await o[Symbol.asyncDispose]();
  t.same(o.datapath.take(), ['start ', 'stop', 'close']);
  t.equal(o.closed, 1);
});
