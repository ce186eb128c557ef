/**
 * Disks with Linux's driver, several in one guest: data both ways, features, and what the host's
 * files hold afterwards.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { DiskOptions } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const DISK_SIZE = 64 * MiB;
const folder = testFolder(t);

/** The host's file of a disk, by the disk's serial. */
const fileOf = (serial: string): string => path.join(folder, `${serial}.raw`);
/** Bytes that the host has allocated for it. */
const allocated = (serial: string): number => statSync(fileOf(serial)).blocks * 512;

function startOf(serial: string, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync(fileOf(serial), 'r');
  readSync(fd, bytes, 0, length, 0);
  closeSync(fd);
  return bytes;
}

function disk(serial: string, options: Omit<DiskOptions, 'path'> = {}): DiskOptions {
  writeFileSync(fileOf(serial), '');
  truncateSync(fileOf(serial), DISK_SIZE);
  return { path: fileOf(serial), serial, ...options };
}

const READ_ONLY = 'read-only';
const disks = [
  disk('split-sync', { engine: 'sync' }),
  disk('split-ring', { engine: 'io_uring', queues: 4, ring: { inOrder: true } }),
  disk('packed-sync', { engine: 'sync', queues: 4, ring: { packed: true, inOrder: true } }),
  disk('packed-ring', { engine: 'io_uring', ring: { packed: true } }),
  disk(READ_ONLY, { readOnly: true }),
  disk('shrinks'),
];
const WRITABLE = ['split-sync', 'split-ring', 'packed-sync', 'packed-ring'];
writeFileSync(fileOf(READ_ONLY), Buffer.alloc(DISK_SIZE, 'read only'));

const vm = await bootGuest({ image: 'tools', machine: { cpus: 2, disks } });
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);

t.test('serial, size, block sizes and queues are as requested', async (t) => {
  for (const { serial = '', readOnly = false, queues = 1, path } of disks) {
    const shown = await sh(`cd /sys/block/$(disk ${serial})
      cat ro size queue/logical_block_size queue/physical_block_size queue/minimum_io_size
      ls mq | wc -l`);
    const block = Math.min(statSync(path).blksize, 4096);
    t.same(
      shown.split('\n').map(Number),
      // Linux takes no more queues than there are vCPUs.
      [readOnly ? 1 : 0, DISK_SIZE / 512, 512, block, block, Math.min(queues, 2)],
      serial,
    );
  }
});

t.test('a read-only disk is read, and refuses writes', async (t) => {
  const before = readFileSync(fileOf(READ_ONLY));
  const answer = await sh(`d=/dev/$(disk ${READ_ONLY})
    dd if=$d bs=64k iflag=direct 2>/dev/null | sha256sum
    if dd if=/dev/zero of=$d bs=4k count=1 oflag=direct 2>/dev/null; then echo written; fi`);
  t.equal(answer, `${sha256(before)}  -`);
  t.ok(readFileSync(fileOf(READ_ONLY)).equals(before));
});

t.test('fio verifies what it wrote, on all disks at once', async (t) => {
  const jobs = WRITABLE.map((serial) => `--name=${serial} --filename=/dev/$(disk ${serial})`);
  const report = await sh(`fio --output-format=terse --direct=1 --ioengine=libaio --iodepth=16 \
    --rw=randrw --bsrange=512-16k --size=4M --io_size=4M --offset=32M --verify=crc32c \
    --verify_fatal=1 --randseed=7 ${jobs.join(' ')}`);
  const errors = report.split('\n').map((line) => line.split(';').slice(2, 5));
  t.same(
    errors,
    WRITABLE.map((serial) => [serial, '0', '0']),
  );
});

for (const serial of WRITABLE) {
  t.test(`what was flushed is in the host's file: ${serial}`, async (t) => {
    const sum = await sh(`head -c 1m /dev/urandom >/random
      dd if=/random of=/dev/$(disk ${serial}) bs=64k conv=fsync 2>/dev/null
      sha256sum </random`);
    t.equal(sum, `${sha256(startOf(serial, MiB))}  -`);
  });
}

t.test('discard gives blocks of the host back, and reads as zeroes', async (t) => {
  for (const serial of ['split-sync', 'packed-ring']) {
    const before = allocated(serial);
    const sum = await sh(`d=/dev/$(disk ${serial})
      blkdiscard -l 1048576 $d
      dd if=$d bs=64k count=16 iflag=direct 2>/dev/null | sha256sum`);
    t.equal(sum, `${sha256(Buffer.alloc(MiB))}  -`, serial);
    t.ok(before - allocated(serial) >= MiB, `${before} bytes were allocated before`);
  }
});

t.test('write zeroes', async (t) => {
  for (const serial of ['split-ring', 'packed-sync']) {
    t.notOk(startOf(serial, MiB).equals(Buffer.alloc(MiB)), `${serial} holds data`);
    await sh(`blkdiscard -z -l 1048576 /dev/$(disk ${serial})`);
    t.ok(startOf(serial, MiB).equals(Buffer.alloc(MiB)), `${serial} holds zeroes`);
  }
});

t.test('a disk grows under I/O, with its file, to the last sector', async (t) => {
  for (const serial of ['split-sync', 'packed-ring']) {
    const name = await sh(`disk ${serial}`);
    const device = `blk${disks.findIndex((one) => one.serial === serial)}`;
    const busy = sh(`fio --output-format=terse --name=grow --filename=/dev/${name} --direct=1 \
      --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k --size=4M --offset=16M --verify=crc32c \
      --verify_fatal=1 | cut -d ';' -f 5`);
    await vm.resizeDisk(device, 2 * DISK_SIZE);
    const grown =
      await sh(`while [ "$(cat /sys/block/${name}/size)" != ${DISK_SIZE / 256} ]; do sleep 0.1; done
      printf x | dd of=/dev/${name} bs=1 seek=${2 * DISK_SIZE - 1} conv=fsync 2>/dev/null
      dmesg | grep -c "${name}.*new size"`);
    t.equal(grown, '1', serial);
    t.equal(await busy, '0');
    t.equal(statSync(fileOf(serial)).size, 2 * DISK_SIZE);
    t.equal(readFileSync(fileOf(serial)).at(-1), 'x'.charCodeAt(0));
  }
  await t.rejects(vm.resizeDisk('blk0', DISK_SIZE), { code: 'E_DISK_RESIZE' });
  await t.rejects(vm.resizeDisk('rng0'), { code: 'E_DEVICE', message: /rng0 is not a disk/ });
});

t.test('a file that shrinks causes I/O errors, and the machine continues', async (t) => {
  truncateSync(fileOf('shrinks'), MiB);
  const answer = await sh(`d=/dev/$(disk shrinks)
    dd if=$d bs=64k count=1 iflag=direct 2>/dev/null | wc -c
    dd if=$d bs=64k skip=32 count=1 iflag=direct 2>&1 | grep -o 'Input/output error'
    echo alive`);
  t.equal(answer, '65536\nInput/output error\nalive');
});

t.test("a file system's files are there after a remount, and in the host's file", async (t) => {
  const sums = new Map<string, string>();
  for (const serial of WRITABLE) {
    const sum = await sh(`d=/dev/$(disk ${serial})
      mkfs.ext4 -q -F $d
      mount -t ext4 $d /mnt
      head -c 4m /dev/urandom >/mnt/random
      mkdir /mnt/folder; cp /mnt/random /mnt/folder/copy
      umount /mnt
      mount -t ext4 $d /mnt
      cmp /mnt/random /mnt/folder/copy
      sha256sum </mnt/random
      umount /mnt`);
    sums.set(serial, sum);
  }
  await vm.stop();
  for (const [serial, sum] of sums) {
    const file = fileOf(serial);
    execFileSync('e2fsck', ['-f', '-n', file], { stdio: 'ignore' });
    const copy = execFileSync('debugfs', ['-R', 'cat /folder/copy', file], {
      maxBuffer: 8 * MiB,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    t.equal(`${sha256(copy)}  -`, sum, serial);
  }
});
