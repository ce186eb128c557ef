/** Kernel modules of one's own: what goes into the guest, and what is refused. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { Guest } from '../../../src/guest/guests.ts';
import { buildModules, withModules } from '../../../src/guest/own-modules.ts';
import { moduleFile } from '../../support/fixtures/guest-inputs.ts';

const VERSION = '6.12.1-test';
const folder = mkdtempSync(join(tmpdir(), 'nodevmm-test-'));
const cache = process.env.XDG_CACHE_HOME;
process.env.XDG_CACHE_HOME = folder;
t.teardown(() => {
  if (cache === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = cache;
  rmSync(folder, { recursive: true });
});

const modules = join(folder, 'nodevmm/kernels', VERSION, 'modules');
mkdirSync(join(modules, 'kernel'), { recursive: true });
for (const [name, ...info] of [
  ['virtio_net', 'depends=failover', 'alias=virtio:d00000001v*'],
  ['failover'],
] as const) {
  writeFileSync(join(modules, 'kernel', `${name}.ko`), moduleFile(...info));
}
const initrd = join(folder, 'initrd');
writeFileSync(initrd, 'the archive before');
const guest: Guest = {
  name: 'minimal',
  kernelVersion: VERSION,
  kernel: join(folder, 'vmlinuz'),
  initrd,
  initrdSize: 18,
  hash: '0',
};

function module(name: string, version = VERSION): string {
  const file = join(folder, name);
  const info = ['alias=virtio:d0000002Av*', 'depends=failover', `vermagic=${version} SMP`];
  writeFileSync(file, moduleFile(...info));
  return file;
}

t.test('a guest without modules is as it was', async (t) => {
  t.equal(await withModules(guest, []), guest);
});

t.test('a module comes behind the image, in lists that know the others', async (t) => {
  const changed = await withModules(guest, [module('my-driver.ko')]);
  const archive = readFileSync(changed.initrd, 'latin1');
  t.ok(archive.startsWith('the archive before070701'));
  t.equal(changed.initrdSize, archive.length);
  t.match(archive, `lib/modules/${VERSION}/extra/my_driver.ko`);
  t.match(archive, /^extra\/my_driver\.ko: kernel\/failover\.ko$/m);
  t.match(archive, /^kernel\/virtio_net\.ko: kernel\/failover\.ko$/m);
  t.match(archive, /alias virtio:d0000002Av\* my_driver\n/);
  t.match(archive, /alias virtio:d00000001v\* virtio_net\n/);
  const again = await withModules(guest, [module('my-driver.ko')]);
  t.equal(again.initrd, changed.initrd, 'made once');
  t.not(again.hash, guest.hash);
});

t.test('what no guest could load is refused', async (t) => {
  const old = module('old.ko', '6.1.0-1');
  for (const [path, message] of [
    [old, /old\.ko is for Linux 6\.1\.0-1, the guest has 6\.12\.1-test; pass the folder/],
    [join(folder, 'none.ko'), /no module .*none\.ko/],
    [initrd, /is not a kernel module/],
  ] as const) {
    await t.rejects(withModules(guest, [path]), { name: 'UsageError', message });
  }
});

t.test('a folder without a Kbuild is no module', async (t) => {
  for (const path of [folder, join(folder, 'nowhere')]) {
    await t.rejects(buildModules(path, VERSION), { code: 'E_MODULE', message: /has no Kbuild/ });
  }
});
