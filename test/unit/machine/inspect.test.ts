/** What is seen of a device from its registers, whatever its driver put there. */
import fc from 'fast-check';
import t from 'tap';
import { PCI_MSIX_FLAGS_ENABLE } from '../../../src/abi/pci.ts';
import { virtio_pci_common_cfg } from '../../../src/abi/virtio-pci.ts';
import { inspectDevice } from '../../../src/machine/inspect.ts';
import { OwnerRig } from '../../support/rigs/machine-device.ts';

t.test('registers, features and queues, by name', async (t) => {
  await using o = new OwnerRig();
  const before = await inspectDevice(o.owner, o.ram.memory, {});
  t.match(before, { status: 0, statusBits: [], place: 'PCI 00:01.0', datapath: 'userspace' });
  t.match(before.features, [
    { bit: 0, negotiated: false },
    { bit: 5, negotiated: false },
    { bit: 32, name: 'VIRTIO_F_VERSION_1', negotiated: false },
    { bit: 40, name: 'VIRTIO_F_RING_RESET', negotiated: false },
  ]);
  o.rig.initialize(2);
  await o.settle();
  const seen = await inspectDevice(o.owner, o.ram.memory, { queue: 'q1' });
  t.same(seen.statusBits, ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK']);
  t.ok(seen.features.every(({ negotiated }) => negotiated));
  t.equal(seen.config, '0102030405060708090a');
  t.same(
    seen.queues.map(({ name, size, enabled, ring, problem }) => [
      name,
      size,
      enabled,
      ring?.format ?? problem,
    ]),
    [
      ['q0', 64, true, undefined],
      ['q1', 128, true, 'split'],
      ['q2', 256, false, undefined],
    ],
  );
  t.equal(seen.queues[1]?.descriptorArea, `0x${(0x1_0000 + 0x1_0000).toString(16)}`);
  await o.unplug();
  const after = await inspectDevice(o.owner, o.ram.memory, {});
  t.notOk('place' in after, 'no guest runs');
});

t.test('doorbells and interrupts: as the driver set them up', async (t) => {
  await using o = new OwnerRig({ notify: 'io' });
  t.same((await inspectDevice(o.owner, o.ram.memory, {})).notify, [], 'no BAR is decoded');
  o.rig.enableDecoding();
  const seen = await inspectDevice(o.owner, o.ram.memory, {});
  const address = `0x${o.rig.notifyAddress.toString(16)}`;
  t.match(seen, { interrupt: 'intx', notify: { length: 2 } });
  t.same(seen.notify[0], { space: 'port', address, by: 'ioeventfd' });
  t.match(seen.notify[1], { space: 'memory', address: /^0x[0-9a-f]+3000$/, by: 'ioeventfd' });
  o.rig.setMsixControl(PCI_MSIX_FLAGS_ENABLE);
  t.match(await inspectDevice(o.owner, o.ram.memory, {}), { interrupt: 'msi-x' });
});

t.test('what is behind a device, and whether its thread is blocked', async (t) => {
  await using o = new OwnerRig();
  t.notOk('backend' in (await inspectDevice(o.owner, o.ram.memory, {})));
  const backend = { name: 'tap t0', calls: 'readv, writev' };
  Object.assign(o.device, { backend });
  Object.assign(o.datapath, { threadId: process.pid });
  const seen = await inspectDevice(o.owner, o.ram.memory, {});
  t.same(seen.backend, backend);
  t.equal(seen.threadState, 'running', 'this very thread');
  Object.assign(o.datapath, { threadId: 0 });
  t.notOk('threadState' in (await inspectDevice(o.owner, o.ram.memory, {})));
});

t.test('positions of queues: as reported by their datapath, in time', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  const state = { nextAvail: 3, nextUsed: 2 };
  const look = async () => (await inspectDevice(o.owner, o.ram.memory, {})).queues[0];
  Object.assign(o.datapath, { states: async () => new Map([[0, state]]) });
  t.same((await look())?.state, state);
  for (const states of [
    () => new Promise(() => {}),
    async () => {
      throw new Error('the thread crashed');
    },
  ]) {
    Object.assign(o.datapath, { states });
    t.notOk(
      'state' in ((await look()) ?? {}),
      'a thread that is stuck, or dead, is not waited for',
    );
  }
  await o.owner.pause();
  t.match((await look())?.state, { nextAvail: 10 }, 'at rest it is known here');
});

t.test('no driver’s register breaks it', async (t) => {
  let enabled = 0;
  const fields = Object.entries(virtio_pci_common_cfg).flatMap(([name, field]) =>
    typeof field === 'number' ? [] : [[name, field.length] as const],
  );
  const value = fc.oneof(
    fc.integer({ min: 0, max: 0xffff_ffff }),
    fc.constantFrom(0, 1, 2, 4, 8, 15, 0xffff, 0x1000, 0x2000, 0xffff_ffff),
  );
  const write = fc.record({ field: fc.constantFrom(...fields), value, high: fc.nat(1) });
  await fc.assert(
    fc.asyncProperty(fc.array(write, { maxLength: 40 }), async (writes) => {
      await using o = new OwnerRig();
      o.rig.enableDecoding();
      o.rig.negotiate();
      for (const {
        field: [name],
        value: bits,
        high,
      } of writes) {
        o.rig.setCommon(name as Parameters<typeof o.rig.setCommon>[0], bits, high * 4);
      }
      o.rig.setCommon('queue_select', 1);
      o.rig.setCommon('queue_enable', 1);
      await o.settle();
      const seen = await inspectDevice(o.owner, o.ram.memory, {});
      enabled += seen.queues.filter((queue) => queue.enabled).length;
      return seen.queues.length === 3 && JSON.stringify(seen).length < 2 ** 18;
    }),
  );
  t.ok(enabled > 0, `${enabled} queues were enabled in some way`);
});
