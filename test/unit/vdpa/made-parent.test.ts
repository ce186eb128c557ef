/** A vDPA device that is made for a machine, and removed whatever happens. */
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { UsageError } from '../../../src/host/errors.ts';
import { MadeParent, type VdpaHost } from '../../../src/vdpa/made-parent.ts';
import { testFolder } from '../../support/rigs/files.ts';

/** A vDPA bus in a folder, and a program `vdpa` that changes it. */
class FakeBus implements VdpaHost {
  readonly bus: string;
  readonly calls: string[] = [];
  /** Which driver takes new devices. */
  driver = 'vhost_vdpa';
  /** How making one ends. */
  fails: string | undefined;
  /** It has made the device all the same. */
  late = false;

  constructor(t: Test) {
    this.bus = testFolder(t);
    for (const driver of ['vhost_vdpa', 'virtio_vdpa']) {
      mkdirSync(join(this.bus, 'drivers', driver), { recursive: true });
    }
    mkdirSync(join(this.bus, 'devices'));
  }

  folder(name: string): string {
    return join(this.bus, 'devices', name);
  }

  async vdpa(args: readonly string[]): Promise<void> {
    this.calls.push(args.join(' '));
    const [, command, , name = ''] = args;
    if (command === 'del') {
      rmSync(this.folder(args[2] ?? ''), { recursive: true });
      return;
    }
    if (this.fails === undefined || this.late) this.#add(name);
    if (this.fails !== undefined) throw new UsageError('E_TOOL', this.fails, 'install it');
  }

  vdpaLater(args: readonly string[]): void {
    this.calls.push(`later ${args.join(' ')}`);
  }

  #add(name: string): void {
    const folder = this.folder(name);
    mkdirSync(folder);
    symlinkSync(join('../../drivers', this.driver), join(folder, 'driver'));
    mkdirSync(join(folder, 'vhost-vdpa-3'));
  }
}

const ASKED = { mgmtdev: 'vdpasim_blk', name: 'mine' };

t.test('made, and removed at the end', async (t) => {
  const host = new FakeBus(t);
  const parent = await MadeParent.make(ASKED, host);
  t.equal(parent.path, '/dev/vhost-vdpa-3');
  await parent.close();
  await parent.close();
  parent.closeNow();
  t.same(host.calls, ['dev add name mine mgmtdev vdpasim_blk', 'dev del mine'], 'once');
  t.notOk(existsSync(host.folder('mine')));
});

t.test('without waiting, where nothing can wait', async (t) => {
  const host = new FakeBus(t);
  const parent = await MadeParent.make(ASKED, host);
  parent.closeNow();
  await parent.close();
  t.same(host.calls.slice(1), ['later dev del mine']);
});

t.test('taken from another driver', async (t) => {
  const host = new FakeBus(t);
  host.driver = 'virtio_vdpa';
  await using parent = await MadeParent.make(ASKED, host);
  t.equal(parent.path, '/dev/vhost-vdpa-3');
  const written = (path: string): string => readFileSync(join(host.bus, path), 'utf8');
  t.equal(written('devices/mine/driver_override'), 'vhost_vdpa');
  t.equal(written('drivers/virtio_vdpa/unbind'), 'mine');
  t.equal(written('drivers/vhost_vdpa/bind'), 'mine');
});

t.test('why there is none, in one line, with nothing left', async (t) => {
  for (const [fails, message] of [
    [
      'vdpa dev failed (status 255): kernel answers: Operation not permitted',
      /^vdpasim_blk makes no vDPA device: .* not permitted; run as root$/,
    ],
    [
      'vdpa dev failed (status 255): Error: vdpa: Fail to find the specified management device.',
      /^this host has no management device vdpasim_blk for vDPA; see "vdpa mgmtdev show" and load/,
    ],
    ['cannot run vdpa: it is not installed', /it is not installed; install it$/],
  ] as const) {
    for (const late of [false, true]) {
      const host = Object.assign(new FakeBus(t), { fails, late });
      await t.rejects(MadeParent.make(ASKED, host), { code: 'E_VDPA', message });
      t.notOk(existsSync(host.folder('mine')), 'whenever it failed');
    }
  }
  const other = new FakeBus(t);
  mkdirSync(other.folder('mine'));
  await t.rejects(MadeParent.make(ASKED, other), {
    message: /has a vDPA device mine already; remove it with "vdpa dev del mine"/,
  });
  t.ok(existsSync(other.folder('mine')), 'which is not ours');
  t.same(other.calls, []);
  const without = new FakeBus(t);
  rmSync(join(without.bus, 'drivers/vhost_vdpa'), { recursive: true });
  const lacks = /this kernel has no vhost_vdpa; load it with "modprobe vhost_vdpa"/;
  await t.rejects(MadeParent.make(ASKED, without), { code: 'E_VDPA', message: lacks });
  t.same(without.calls, []);
  const stuck = new FakeBus(t);
  stuck.driver = 'virtio_vdpa';
  mkdirSync(join(stuck.bus, 'drivers/vhost_vdpa/bind'));
  await t.rejects(MadeParent.make(ASKED, stuck), { message: /cannot bind the vDPA device mine/ });
  t.notOk(existsSync(stuck.folder('mine')));
});
