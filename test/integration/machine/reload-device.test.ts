/** A device whose code changes while it runs: its owner, and the file that it comes from. */
import { existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { DEVICE_NEEDS_RESET, VIRTIO_PCI_ISR_CONFIG } from '../../../src/abi/virtio-pci.ts';
import { DeviceCode } from '../../../src/machine/user-devices/device-code.ts';
import { DeviceRig } from '../../../src/testing/device-rig.ts';
import type { VirtioDevice } from '../../../src/virtio/device.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { OwnerRig } from '../../support/rigs/machine-device.ts';

const folder = testFolder(t);

const LONG = 1e6;

t.test('virtio 1.3 §2.1.2 the driver is asked to reset a device whose code changed', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.reload(() => o.calls.push('changed'), LONG);
  t.same(o.datapath.take(), ['start 0', 'stop', 'close']);
  t.same(o.calls, ['changed']);
  t.equal(o.status, 0xf | DEVICE_NEEDS_RESET);
  t.equal(o.rig.readMemory(o.rig.isrAddress, 1), VIRTIO_PCI_ISR_CONFIG);
  o.rig.setCommon('device_status', 0);
  await o.settle();
  t.equal(o.status, 0);
  o.rig.initialize(1);
  await o.settle();
  t.same(o.datapath.take(), ['start 0'], 'with fresh queues');
});

t.test('under a driver that does not, the queues continue where they were', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.reload(() => {}, 1);
  while ((o.status & DEVICE_NEEDS_RESET) !== 0) await delay(1);
  await o.settle();
  t.same(o.datapath.take(), ['start 0', 'stop', 'close', 'start 0@10']);
  t.equal(o.status, 0xf);
});

t.test('a device that broke meanwhile stays broken', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.owner.reload(() => {}, 20);
  o.rig.setCommon('device_status', 0);
  await o.settle();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.events.broken('a rule');
  await delay(50);
  await o.settle();
  t.equal(o.status, 0xf | DEVICE_NEEDS_RESET);
});

t.test('a change that fails leaves all as it was', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  const failing = o.owner.reload(() => {
    throw new Error('no');
  });
  await t.rejects(failing, { message: 'no' });
  t.equal(o.status, 0xf);
  t.same(o.datapath.take(), ['start 0', 'stop', 'start 0@10']);
});

t.test('a device that no driver uses takes other code at once', async (t) => {
  await using o = new OwnerRig();
  o.rig.enableDecoding();
  await o.owner.reload(() => o.calls.push('changed'));
  t.same(o.calls, ['changed']);
  t.equal(o.status, 0);
});

const source = (answer: string, more = ''): string => `
import { defineDevice } from 'nodevmm/device';
export default defineDevice({
  deviceId: 42,
  queues: { requests: { handle: (request) => request.write(Buffer.from(${answer})) } }, ${more}
});
`;

function ask(device: VirtioDevice): string {
  const handler = device.createHandler?.();
  if (handler === undefined) throw new Error('no handler');
  using rig = new DeviceRig();
  rig.start(handler, 1n << 32n, [16]);
  rig.queue(0).add({ writable: [20] });
  rig.notify(0);
  return Buffer.from(rig.queue(0).completed()[0]?.data ?? []).toString();
}

t.test('a file is read again, and what was built from it before is removed', async (t) => {
  const module = join(folder, 'device.ts');
  writeFileSync(module, source('"one"'));
  const code = await DeviceCode.open('own0', { module, thread: 'worker' });
  const { device } = code;
  const places: string[] = [];
  const place = (): string =>
    device.thread.kind === 'worker' ? dirname(fileURLToPath(device.thread.module)) : '';
  code.attach(
    {
      reload: async (change) => {
        places.push(place());
        change();
      },
    },
    () => {},
  );
  t.equal(ask(device), 'one');
  writeFileSync(module, source('"two"'));
  await code.reload();
  t.equal(ask(device), 'two');
  t.not(place(), places[0]);
  t.notOk(existsSync(places[0] ?? ''));
  for (const [text, message] of [
    [source('"three"', 'features: { NEW: 1 },'), /features, .* changed, .* restart the machine/],
    ['export default ((;', /cannot be compiled: .*device\.ts:1: /],
    [source('"three"', 'pciClass: nowhere,'), /nowhere is not defined/],
  ] as const) {
    writeFileSync(module, text);
    await t.rejects(code.reload(), { name: 'UsageError', message });
    t.equal(ask(device), 'two', 'it continues as it was');
  }
  const last = place();
  device.close();
  t.notOk(existsSync(last));
});

t.test('a file that is watched is taken up when it, or what it imports, is saved', async (t) => {
  const module = join(folder, 'watched.ts');
  const other = join(folder, 'other.ts');
  writeFileSync(other, 'export const text = "one";');
  writeFileSync(module, `import { text } from './other.ts';\n${source('text')}`);
  const code = await DeviceCode.open('own0', { module, watch: true });
  let notify: (text: string) => void = () => {};
  const next = () =>
    new Promise<string>((resolve) => {
      notify = resolve;
    });
  code.attach({ reload: async (change) => change() }, (text) => notify(text));
  const alive = setInterval(() => {}, 1000);
  t.teardown(() => clearInterval(alive));
  let log = next();
  writeFileSync(other, 'export const text = "two again";');
  t.match(await log, /^own0: runs .*watched\.ts as it was saved$/);
  t.equal(ask(code.device), 'two again');
  log = next();
  writeFileSync(other, 'export const text = ;');
  t.match(await log, /^own0: keeps its old code: .*cannot be compiled: .*other\.ts:1: /);
  t.equal(ask(code.device), 'two again');
  log = next();
  writeFileSync(other, 'export const text = "three";');
  t.match(await log, /as it was saved/);
  t.equal(ask(code.device), 'three');
  code.device.close();
});
