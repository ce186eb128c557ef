/** What a guest repeats without end: how many messages, lines and bytes its owner has to bear. */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { DEVICE_NEEDS_RESET } from '../../../src/abi/virtio-pci.ts';
import { OwnerRig } from '../../support/rigs/machine-device.ts';

const MANY = 10_000;

const ACTIONS: Readonly<Record<string, (o: OwnerRig, round: number) => void>> = {
  'configuration writes': (o, i) => o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 1, i & 0xff),
  'resets of a device that is not active': (o) => o.rig.setCommon('device_status', 0),
  'configuration writes and resets by turns': (o, i) => {
    o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 1, i & 0xff);
    o.rig.setCommon('device_status', 0);
  },
  'status writes': (o, i) => o.rig.setCommon('device_status', i & 0xff),
  'vectors that change': (o, i) => o.rig.setCommon('queue_msix_vector', i % 3),
  'MSI-X switched on and off': (o, i) =>
    o.rig.setMsixControl((i & 1) === 0 ? 0 : pci.PCI_MSIX_FLAGS_ENABLE),
  'MSI-X masked and unmasked': (o, i) =>
    o.rig.setMsixControl(pci.PCI_MSIX_FLAGS_ENABLE | ((i & 1) === 0 ? 0 : 0x4000)),
  'queue resets': (o) => o.rig.setCommon('queue_reset', 1),
  'queues enabled': (o, i) => {
    o.rig.setCommon('queue_select', i % 3);
    o.rig.setCommon('queue_enable', 1);
  },
};

for (const [name, act] of Object.entries(ACTIONS)) {
  for (const start of ['from reset', 'of a running device'] as const) {
    t.test(`${name} ${start}: one message until the owner has looked`, async (t) => {
      await using o = new OwnerRig();
      if (start === 'from reset') o.rig.enableDecoding();
      else o.rig.initialize(1);
      await o.settle();
      for (let i = 0; i < MANY; i++) act(o, i);
      t.ok(o.rig.messages <= 1, `${o.rig.messages} messages`);
      await o.settle();
      t.ok(o.calls.length <= 2, `${o.calls.length} calls of the device`);
    });
  }
}

t.test('while the owner is busy with a reset, a driver adds one message', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.holdStop = true;
  o.rig.setCommon('device_status', 0);
  o.deliver();
  await o.datapath.stopping;
  for (let i = 0; i < MANY; i++) {
    o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 1, i & 0xff);
    o.deliver();
  }
  o.datapath.release?.();
  await o.settled();
  t.same(o.calls, ['reset', 'config 4+1']);
});

t.test('a configuration write is reported with all written bytes', async (t) => {
  const configWriteMask = Uint8Array.of(0xff, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0xff);
  await using o = new OwnerRig({ configWriteMask });
  o.rig.enableDecoding();
  o.rig.writeMemory(o.rig.deviceConfigAddress + 9, 1, 1);
  o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 4, 2);
  o.rig.writeMemory(o.rig.deviceConfigAddress, 1, 3);
  await o.settle();
  t.same(o.calls, ['config 0+1', 'config 4+2', 'config 9+1']);
});

t.test('of a device that breaks and is reset in a loop the reason is logged once', async (t) => {
  const o = new OwnerRig();
  for (let i = 0; i < 200; i++) {
    o.rig.initialize(1);
    await o.settle();
    o.datapath.events.broken('a rule (§2.7)');
    t.equal(o.status & DEVICE_NEEDS_RESET, DEVICE_NEEDS_RESET);
    o.rig.setCommon('device_status', 0);
    await o.settle();
  }
  t.same(o.logs, ['test0: stopped: a rule (§2.7)']);
  await o[Symbol.asyncDispose]();
  t.same(o.logs.slice(1), ['test0: 199 more lines like these']);
});

t.test('lines of a data half, as many as its driver likes', async (t) => {
  await using o = new OwnerRig();
  for (let i = 0; i < MANY; i++) o.datapath.events.log(`request ${i} makes no sense`);
  t.equal(o.logs.length, 8);
});

t.test('emergency writes wait in a ring; those that do not fit are reported', async (t) => {
  await using o = new OwnerRig({ emergencyWrite: 4 });
  o.rig.enableDecoding();
  for (let i = 0; i < MANY; i++) o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 1, 0x41);
  t.equal(o.rig.messages, 1);
  await o.settle();
  t.same(o.calls, ['config 4+1', 'emergency 4096']);
  t.equal(o.logs.length, 1);
  for (const byte of Buffer.from('Hi')) o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 4, byte);
  await o.settle();
  t.same(o.calls.slice(2), ['config 4+2', 'emergency 2'], 'each write counts');
});
