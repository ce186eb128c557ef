/** A machine's balloon: targets in bytes, and machines that cannot have one. */
import t from 'tap';
import { balloonCalls, MachineBalloon } from '../../../src/machine/balloon.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { BalloonDevice } from '../../../src/virtio/device/balloon/balloon.ts';

t.test('the target is what the guest keeps', async (t) => {
  const device = new BalloonDevice('balloon0');
  const view = new DataView(device.config.buffer);
  device.attach({
    updateConfig: (change) => change(view),
    readConfig: () => device.config,
    post: () => {},
  });
  const problems: string[] = [];
  const balloon = new MachineBalloon(balloonCalls(device, 512 * MiB), (text) =>
    problems.push(text),
  );
  t.same(balloon.state, { target: 512 * MiB, current: 512 * MiB });
  await balloon.setTarget(128 * MiB);
  t.equal(device.wanted, (384 * MiB) / 4096);
  balloon.target = 500 * MiB;
  t.equal(balloon.target, 500 * MiB);
  view.setUint32(4, (100 * MiB) / 4096, true);
  t.equal(balloon.state.current, 412 * MiB);
  view.setUint32(4, 2 ** 32 - 1, true);
  t.equal(balloon.state.current, 0, 'whatever the driver says');
  for (const bytes of [512 * MiB + 4096, -4096, 100 * MiB + 1, Number.NaN, 0.5]) {
    await t.rejects(balloon.setTarget(bytes), { code: 'E_BALLOON' }, `${bytes}`);
  }
  balloon.target = 1;
  await new Promise(setImmediate);
  t.match(problems, [/^the guest cannot keep 1 bytes of its 512 MiB; the target is whole pages/]);
  t.same(await balloon.statistics(), { target: 500 * MiB, current: 0 });
});

t.test('a machine without one says so', async (t) => {
  const balloon = new MachineBalloon(balloonCalls(undefined, MiB), () => {});
  t.equal(balloon.find(), undefined);
  t.throws(() => balloon.target, { code: 'E_BALLOON', message: /create it with balloon/ });
  await t.rejects(balloon.setTarget(0), { code: 'E_BALLOON' });
  await t.rejects(balloon.statistics(), { code: 'E_BALLOON' });
});

t.test('RAM that hardware has locked stays', async (t) => {
  const kernel = '/k';
  t.throws(() => resolveOptions({ kernel, balloon: true, vfio: [{ address: '0000:01:00.0' }] }), {
    code: 'E_BALLOON',
    message: /^a balloon cannot give back RAM that vfio0 has locked; leave out one of them$/,
  });
  const hardware = { vdpa: 'auto', mgmtdev: 'pci/0000:01:00.0' };
  t.throws(() => resolveOptions({ kernel, balloon: true, nets: [hardware] }), /net0 has locked/);
  const { devices } = resolveOptions({ kernel, balloon: { statsInterval: 5 } });
  t.ok(devices.some(({ context }) => context.name === 'balloon0'));
});
