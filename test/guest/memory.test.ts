/** RAM that goes back to the host and comes again. More in test/long/guest/memory.test.ts. */
import { execFileSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';
import { settled } from '../support/rigs/memory.ts';

const MEMORY = 512 * MiB;
const GROWTH = 256 * MiB;
const CLOSE = 0.05 * MEMORY;

const folder = testFolder(t);
function makeFile(name: string, size: number): string {
  const file = path.join(folder, name);
  writeFileSync(file, '');
  truncateSync(file, size);
  return file;
}
const file = makeFile('disk.raw', 640 * MiB);
const pmem = makeFile('pmem', 64 * MiB);
const locked = makeFile('read-only', 2 * MiB);
execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', pmem]);
const rss = (): number => process.memoryUsage.rss();
const vm = await bootGuest({
  machine: {
    memory: MEMORY,
    balloon: true,
    memoryDevice: { max: MEMORY + GROWTH },
    disks: [{ path: file }],
    pmems: [{ path: pmem }, { path: locked, readOnly: true }],
  },
  // Linux's balloon driver announces its buffer for statistics too early.
  provoked: /notified a queue before DRIVER_OK/,
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, script);
await sh('mkdir /ram; mount -t tmpfs -o size=90% ram /ram');
/** Clean pages of a file in all of the guest's memory that nothing else uses. */
const FILL = 'dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null';

t.test('free pages that the guest reports go back', async (t) => {
  await sh('dd if=/dev/zero of=/ram/file bs=1M count=256 2>/dev/null');
  const full = rss();
  await sh('rm /ram/file');
  await settled(() => full - rss() > 256 * MiB - CLOSE, 'free pages to be reported');
  t.pass();
});

t.test('RSS falls and rises with the target', async (t) => {
  await sh(FILL);
  const full = rss();
  await vm.balloon.setTarget(256 * MiB);
  await settled(() => vm.balloon.state.current === 256 * MiB, 'the balloon to inflate');
  await sh(FILL);
  t.ok(Math.abs(full - rss() - 256 * MiB) < CLOSE, `${full} ${rss()}`);
  t.match(await sh('grep balloon_inflate /proc/vmstat'), 'balloon_inflate 65536');
  vm.balloon.target = MEMORY;
  await settled(() => vm.balloon.state.current === MEMORY, 'the balloon to deflate');
  t.match(await sh('grep balloon_deflate /proc/vmstat'), 'balloon_deflate 65536');
  await sh(FILL);
  t.ok(Math.abs(full - rss()) < CLOSE, `${full} ${rss()}`);
});

t.test('statistics are those of /proc', async (t) => {
  const { guest = {} } = await vm.balloon.statistics();
  const info = await sh('cat /proc/meminfo');
  const inInfo = (name: string): number =>
    1024 * Number(new RegExp(`^${name}: *(\\d+)`, 'm').exec(info)?.[1]);
  t.equal(guest.total, inInfo('MemTotal'));
  for (const [value = 0, name] of [
    [guest.free, 'MemFree'],
    [guest.available, 'MemAvailable'],
  ] as const) {
    t.ok(Math.abs(value - inInfo(name)) < CLOSE, `${name} ${value} ${inInfo(name)}`);
  }
});

t.test('RAM grows, is used, and shrinks', async (t) => {
  const total = async (): Promise<number> =>
    1024 * Number(await sh("awk '/^MemTotal/ { print $2 }' /proc/meminfo"));
  await sh('dmesg -c >/dev/null');
  const before = { total: await total(), rss: rss() };
  t.same(vm.memory, { target: MEMORY, current: MEMORY, max: MEMORY + GROWTH });
  await vm.setMemory(MEMORY + GROWTH);
  await settled(() => vm.memory.current === MEMORY + GROWTH, 'the guest to plug memory');
  t.equal((await total()) - before.total, GROWTH);
  t.match(await sh('cat /proc/iomem'), 'System RAM (virtio_mem)');
  t.equal(await sh('grep -h online /sys/devices/system/memory/memory*/state | wc -l'), '6');
  await sh('dd if=/dev/zero of=/ram/file bs=1M count=400 2>/dev/null');
  const grown = rss();
  await sh('rm /ram/file');
  await vm.setMemory(MEMORY);
  await settled(() => vm.memory.current === MEMORY, 'the guest to unplug memory');
  t.equal(await total(), before.total);
  await settled(() => grown - rss() > 400 * MiB - CLOSE, 'what is unplugged or free to go back');
  t.equal(await sh('dmesg | grep -iE "warning|error|BUG:" || true'), '');
});

t.test('a guest that runs out of memory takes it back, and no program is killed', async (t) => {
  await vm.balloon.setTarget(128 * MiB);
  await settled(() => vm.balloon.state.current <= 160 * MiB, 'the balloon to inflate');
  await sh('dd if=/dev/zero of=/ram/file bs=1M count=200 2>/dev/null');
  t.ok(vm.balloon.state.current > 200 * MiB, `${vm.balloon.state.current}`);
  t.equal(await sh('dmesg | grep -c "Out of memory: Killed" || true'), '0');
  await sh('rm /ram/file');
});

t.test('a file system on a file of the host, without a cache in the guest (DAX)', async (t) => {
  await sh('mkdir /pmem; mount -t ext4 -o dax /dev/pmem0 /pmem');
  t.match(await sh('grep /pmem /proc/mounts'), /dax/);
  t.notOk(await sh('dmesg | grep -i "DAX unsupported" || true'));
  const hash = await sh('head -c 3m /dev/urandom >/pmem/file; sync; sha256sum </pmem/file');
  // O_DIRECT has the disk read the file's pages in place.
  await sh('dd if=/pmem/file of=/dev/vda bs=1M oflag=direct 2>/dev/null');
  t.match(hash, sha256(readFileSync(file).subarray(0, 3 * MiB)));
  await sh('umount /pmem');
  const kept = execFileSync('debugfs', ['-R', 'cat /file', pmem], {
    maxBuffer: 8 * MiB,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.match(hash, sha256(kept));
  execFileSync('e2fsck', ['-fn', pmem], { stdio: 'ignore' });
});

t.test('a file that is only read stays as it is', async (t) => {
  await sh('head -c 4k /dev/urandom | dd of=/dev/pmem1 bs=4k conv=fsync 2>/dev/null || true');
  t.ok(readFileSync(locked).every((byte) => byte === 0));
});
