/**
 * Disks by vDPA, served by nodevmm itself: a reboot gives one to the next driver, the end of a machine to the next machine; and
 * what is on it stays what was written, also after a pause.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256 } from '../../support/rigs/files.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import { ParentDisk } from '../../support/rigs/vdpa.ts';

const parent = new ParentDisk();
const [, vdpa] = await parent.serve('test-disk');
// The image with the tools needs as much.
const memory = 384 * MiB;

t.test('before and after a reboot', async (t) => {
  await using vm = await bootGuest({ machine: { memory, disks: [{ vdpa }] } });
  t.ok(await parent.exchanges(vm, 1));
  const reboot = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await reboot;
  t.ok(await parent.exchanges(vm, 2));
});

const FIO =
  'fio --name=verified --filename=/dev/vda --size=16m --rw=randwrite --bs=16k --direct=1 --ioengine=libaio --iodepth=8 ' +
  '--verify=crc32c --output-format=terse | cut -d ";" -f 5';
const FILES = `
mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt
mount /dev/vda /mnt
dd if=/dev/urandom of=/tmp/f bs=64k count=128 2>/dev/null
cp /tmp/f /mnt/f
umount /mnt
mount /dev/vda /mnt
cmp /tmp/f /mnt/f
sha256sum </mnt/f
umount /mnt`;

for (const packed of [false, true]) {
  t.test(`${packed ? 'packed' : 'split'} rings`, async (t) => {
    const machine = { memory, disks: [{ vdpa, ring: { packed } }] };
    await using vm = await bootGuest({ image: 'tools', machine });
    const features = await guestShell(vm, 'cat /sys/block/vda/device/features');
    t.equal(features[34], packed ? '1' : '0', 'VIRTIO_F_RING_PACKED');
    t.equal(features[33], '0', 'no VIRTIO_F_ACCESS_PLATFORM');
    t.ok(await parent.exchanges(vm, 3));
    await vm.pause();
    await vm.resume();
    t.ok(await parent.exchanges(vm, 4), 'a write after a pause');
    t.equal(await guestShell(vm, FIO), '0', 'no error');
    const sum = await guestShell(vm, FILES);
    t.match(sum, /^[0-9a-f]{64} /);
    // On this side it is the same file system, and whole.
    const show = (command: string): Buffer =>
      execFileSync('debugfs', ['-R', command, parent.image], {
        stdio: ['ignore', 'pipe', 'ignore'],
        maxBuffer: 64 * MiB,
      });
    t.equal(`${sha256(show('cat f'))}  -`, sum);
    execFileSync('e2fsck', ['-f', '-n', parent.image], { stdio: 'ignore' });
  });
}
