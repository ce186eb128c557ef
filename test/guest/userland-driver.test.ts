/** A driver in the guest's userland behind the IOMMU: guests/userland-driver. More in test/long/guest. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import {
  compileUserlandDriver,
  installUserlandDriver,
  RPMB_DEVICE,
} from '../support/fixtures/userland-driver.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest } from '../support/rigs/guest.ts';

const folder = testFolder(t);
const file = path.join(folder, 'disk.raw');
writeFileSync(file, Buffer.alloc(MiB, 'what the disk has at first '));
const compiled = path.join(folder, 'driver');
compileUserlandDriver(compiled);
const vm = await bootGuest({
  provoked: /the IOMMU does not map/,
  machine: { iommu: true, disks: [{ path: file }], devices: [{ module: RPMB_DEVICE }] },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = await installUserlandDriver(vm, compiled);

t.test('the entropy device', async (t) => {
  const script = (option: string): string =>
    `userland-driver ${option} rng $(function_of 4) 4096 | tr -d '\\n'`;
  const [one, other] = [
    await sh(`bind vfio-pci $(function_of 4); ${script('')}`),
    await sh(script('')),
  ];
  t.match(one, /^[0-9a-f]{8192}$/);
  t.match(other, /^[0-9a-f]{8192}$/);
  t.not(one, other);
});

t.test('a disk: what it writes is in the file, and what it reads is', async (t) => {
  const first = sha256(readFileSync(file).subarray(0, 64 * 1024));
  const read = await sh(
    'bind vfio-pci $(function_of 2); userland-driver blk $(function_of 2) read 0 128',
  );
  t.equal(read, `2048 sectors, of which these have SHA-256 ${first}`);
  const written = await sh(`
    head -c 300000 /dev/urandom >/random
    userland-driver blk $(function_of 2) write 100 </random`);
  // The last sector is filled up.
  const sectors = Math.ceil(300_000 / 512);
  const there = readFileSync(file).subarray(100 * 512, (100 + sectors) * 512);
  t.equal(written, `2048 sectors, of which these have SHA-256 ${sha256(there)}`);
  t.match(await sh('sha256sum </random'), sha256(there.subarray(0, 300_000)));
});

t.test('a device that Linux has no driver for', async (t) => {
  const rpmb = (args: string): Promise<string> =>
    sh(`userland-driver rpmb $(function_of 28) ${args}`);
  await sh('bind vfio-pci $(function_of 28)');
  t.equal(await rpmb('key'), 'key: OK');
  t.equal(await rpmb('key'), 'key: WRITE_FAILURE');
  const text = 'protected, '.repeat(40).trim();
  t.equal(await rpmb(`write 7 '${text}'`), 'written, counter 1');
  t.equal(await rpmb('read 7 2'), text);
  t.equal(await rpmb(`replay 7 other`), 'first: OK\nagain: COUNT_FAILURE');
  t.equal(await rpmb(`forge 7 evil`), 'forged: AUTH_FAILURE');
  t.equal(await rpmb('read 7 1'), 'other');
  t.equal(await rpmb('counter'), 'counter 2');
});

t.test('memory that is not the device’s: a fault in the log, and no harm', async (t) => {
  const good = 'the device needs a reset\nthe page is as it was\nit works again';
  for (const kind of ['unmapped', 'forbidden']) {
    for (const [type, access] of [
      [4, 'W'],
      [2, 'R'],
    ]) {
      await sh('dmesg -c >/dev/null');
      t.equal(await sh(`userland-driver fault $(function_of ${type}) ${kind}`), good);
      const log = await sh('dmesg | grep "fault from"');
      t.match(log, new RegExp(`page fault from EP \\d+ at 0x20000000 \\[ ?${access}`));
    }
  }
  t.equal(await sh('userland-driver storm $(function_of 4) 100'), '100 rounds');
});

t.test('Linux has its devices back', async (t) => {
  await sh(`
    bind virtio-pci $(function_of 2); bind virtio-pci $(function_of 4)
    until [ -b /dev/vda ]; do sleep 0.1; done`);
  t.match(await sh('sha256sum </dev/vda'), sha256(readFileSync(file)));
  t.equal(await sh('head -c 10 /dev/hwrng | wc -c'), '10');
});
