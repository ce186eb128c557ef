/** Moving a device's queues between the places that can serve them. */
import t from 'tap';
import type { DatapathEvents } from '../../../src/datapath/datapath.ts';
import { UsageError } from '../../../src/host/errors.ts';
import { QueueService } from '../../../src/machine/devices/queue-service.ts';
import { FakeDatapath, OwnerRig } from '../../support/rigs/machine-device.ts';

t.test('each queue continues where it was, there and back', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(2);
  await o.settle();
  t.same(o.datapath.take(), ['start 0 1']);
  await o.owner.moveTo('vhost');
  t.equal(o.owner.datapath, 'vhost');
  t.same(o.datapath.take(), ['stop']);
  t.same(o.vhost?.take(), ['start 0@10 1@11']);
  await o.owner.moveTo('vhost');
  t.same(o.vhost?.take(), [], 'where it is already');
  await o.owner.moveTo('userspace');
  t.same(o.vhost?.take(), ['stop', 'close'], 'what is left is given back');
  t.same(o.datapath.take(), ['start 0@10 1@11']);
});

t.test('before the driver is up it is only a choice', async (t) => {
  await using o = new OwnerRig();
  o.vhostWithholds = 0x1234n;
  await o.owner.moveTo('vhost');
  t.equal(o.owner.withheld, 0x1234n);
  o.rig.initialize(1);
  await o.settle();
  t.same(o.datapath.take(), []);
  t.same(o.vhost?.take(), ['start 0']);
});

t.test('a paused device moves, and is served when it resumes', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.pause();
  o.datapath.take();
  await o.owner.moveTo('vhost');
  t.same([o.datapath.take(), o.vhost?.take()], [[], []]);
  await o.owner.resume();
  t.same(o.vhost?.take(), ['start 0@10']);
});

t.test('what cannot be leaves all as it was', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.take();
  o.vhostError = new UsageError('E_VHOST', 'no vhost here');
  await t.rejects(o.owner.moveTo('vhost'), { code: 'E_VHOST' });
  o.vhostError = undefined;
  o.vhostWithholds = o.rig.shape.features;
  await t.rejects(o.owner.moveTo('vhost'), { code: 'E_FEATURES', message: /feature bits .*32/ });
  t.same([o.datapath.take(), o.owner.datapath], [[], 'userspace'], 'it was never stopped');
});

t.test('what is elsewhere stays there, and nothing else moves there', async (t) => {
  await using o = new OwnerRig();
  for (const place of ['vdpa', 'vhost-user'] as const) {
    await t.rejects(o.owner.moveTo(place), {
      code: 'E_DATAPATH',
      message: new RegExp(
        `^test0 cannot move to ${place}, where a device has .*; start the machine`,
      ),
    });
  }
  for (const [place, what] of [
    ['vdpa', 'its vDPA device'],
    ['vhost-user', 'its backend'],
  ] as const) {
    const table = new Map([[place, (events: DatapathEvents) => new FakeDatapath(events)]]);
    const service = new QueueService('net0', table, o.datapath.events);
    for (const name of ['userspace', 'vhost'] as const) {
      t.throws(() => service.checkMove(name), {
        code: 'E_DATAPATH',
        message: `net0 cannot leave ${what}, which has its features, configuration, and state`,
      });
    }
    await service.close();
  }
});

t.test('a start that fails goes back', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.take();
  o.vhostFailStart = new Error('the kernel refuses');
  await t.rejects(o.owner.moveTo('vhost'), /the kernel refuses/);
  t.same(o.datapath.take(), ['stop', 'start 0@10']);
  t.equal(o.owner.datapath, 'userspace');
  t.equal(o.status, 0xf, 'the driver notices nothing');
});
