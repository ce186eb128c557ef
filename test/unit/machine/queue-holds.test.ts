/** Holding a device's queues: what its datapath gets, and what is refused. */
import t from 'tap';
import { OwnerRig } from '../../support/rigs/machine-device.ts';

const holds = (o: OwnerRig) => Object.fromEntries(o.datapath.last?.holds ?? []);

t.test('a hold, a step and a release restart the queues where they were', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(2);
  await o.settle();
  t.same(o.datapath.take(), ['start 0 1']);
  t.equal(o.datapath.last?.holds, undefined, 'nothing is sent while nothing is held');
  await o.owner.holdQueue(1);
  t.same(o.datapath.take(), ['stop', 'start 0@10 1@11']);
  t.same(holds(o), { 1: 0 });
  await o.owner.stepQueue(1);
  t.same(holds(o), { 1: 1 });
  t.equal(o.owner.credits(1), 1);
  await o.owner.releaseQueue(1);
  t.equal(o.datapath.last?.holds, undefined);
  t.equal(o.owner.credits(1), undefined);
});

t.test('a credit passes one chain, also when the queues are restarted meanwhile', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.stepQueue(0);
  await o.owner.pause();
  await o.owner.resume();
  t.same(holds(o), { 0: 1 }, 'its position is the same: not spent');
  o.datapath.at = 11;
  await o.owner.pause();
  t.equal(o.owner.credits(0), 0, 'it continued: spent');
  await o.owner.resume();
  t.same(holds(o), { 0: 0 });
});

t.test('a hold made before the driver is up, or while paused, counts from then on', async (t) => {
  await using o = new OwnerRig();
  await o.owner.holdQueue(0);
  o.rig.initialize(1);
  await o.settle();
  t.same(holds(o), { 0: 0 });
  await o.owner.pause();
  o.datapath.take();
  await o.owner.releaseQueue(0);
  t.same(o.datapath.take(), [], 'it stays at rest');
  await o.owner.resume();
  t.equal(o.datapath.last?.holds, undefined);
});

t.test('the host kernel’s queues are not held, and held ones not given to it', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.moveTo('vhost');
  await t.rejects(o.owner.holdQueue(0), { code: 'E_HELD', message: /^[^\n]*move test0 user/ });
  await o.owner.moveTo('userspace');
  await o.owner.holdQueue(0);
  await t.rejects(o.owner.moveTo('vhost'), { code: 'E_HELD' });
  t.equal(o.owner.datapath, 'userspace');
  await o.owner.releaseQueue(0);
  await o.owner.moveTo('vhost');
  t.equal(o.owner.datapath, 'vhost');
});
