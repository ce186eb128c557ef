/** Opening, locking and measuring disks; failures are one line. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { logicalBlockSize, RawFile } from '../../../src/backend/raw-file.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const folder = new TemporaryFolder();
t.teardown(() => folder[Symbol.dispose]());

function open(path: string, readOnly = false, direct = false): RawFile {
  return new RawFile({ path, readOnly, direct });
}

/** Descriptors of this process that lead to a path. */
function descriptors(path: string): number {
  const folder = '/proc/self/fd';
  const leadsTo = (name: string): string => {
    try {
      return readlinkSync(join(folder, name));
    } catch {
      // The one that listed the folder is gone.
      return '';
    }
  };
  return readdirSync(folder).filter((name) => leadsTo(name) === path).length;
}

t.test('a file is measured', async (t) => {
  const path = folder.file('plain', 8192);
  const file = open(path);
  const { size, fileSize, logicalBlockSize, physicalBlockSize, blockDevice } = file.geometry;
  t.same([size, fileSize, logicalBlockSize, blockDevice], [8192, 8192, 512, false]);
  t.ok(physicalBlockSize >= 512 && physicalBlockSize <= 4096);
  file.close();
  t.same(new Uint8Array(readFileSync(path)), new Uint8Array(8192), 'and left as it was');
});

t.test('a block size can be set', async (t) => {
  const path = folder.file('blocks', 8192);
  for (const blockSize of [512, 1024, 2048, 4096]) {
    const file = new RawFile({ path, readOnly: false, direct: false, blockSize });
    const { size, logicalBlockSize, physicalBlockSize } = file.geometry;
    t.same([size, logicalBlockSize], [8192, blockSize]);
    t.ok(physicalBlockSize >= blockSize);
    file.close();
  }
  const code = 'E_DISK_BLOCK_SIZE';
  for (const blockSize of [0, 1, 511, 520, 8192, 65536]) {
    const refused = {
      name: 'UsageError',
      code,
      message: /the block size must be 512, 1024, 2048, or 4096, not \d+$/,
    };
    t.throws(() => new RawFile({ path, readOnly: false, direct: false, blockSize }), refused);
  }
  open(path).close();
});

t.test('a disk whose size is no multiple of its block size', async (t) => {
  const path = folder.file('odd', 4096 + 1024);
  const options = { path, direct: false, blockSize: 4096 };
  t.throws(() => new RawFile({ ...options, readOnly: false }), {
    code: 'E_DISK_BLOCK_SIZE',
    message: /5120 bytes, is not a multiple of the block size 4096; pad it with: truncate -s %4096/,
  });
  const file = new RawFile({ ...options, readOnly: true });
  t.match(file.geometry, { size: 8192, fileSize: 5120, logicalBlockSize: 4096 });
  file.close();
});

t.test('O_DIRECT takes no blocks that are smaller than the medium’s', async (t) => {
  const limits = { path: 'disk', natural: 4096, size: 8192, fillsUp: false, isFile: true };
  t.equal(logicalBlockSize({ ...limits, asked: undefined, direct: 4096 }), 4096);
  t.equal(logicalBlockSize({ ...limits, asked: 4096, direct: 4096 }), 4096);
  t.equal(logicalBlockSize({ ...limits, asked: 4096, direct: 512 }), 4096);
  t.equal(logicalBlockSize({ ...limits, asked: 512, direct: undefined }), 512);
  t.throws(() => logicalBlockSize({ ...limits, asked: 512, direct: 4096 }), {
    code: 'E_DISK_BLOCK_SIZE',
    message:
      'disk disk: O_DIRECT needs blocks of at least 4096 bytes there, not 512; leave direct off, or set block-size=4096',
  });
  t.throws(
    () => logicalBlockSize({ ...limits, asked: 4096, direct: undefined, size: 512, isFile: false }),
    {
      message: /use a smaller one$/,
    },
  );
});

t.test('a writer excludes all others, readers share', async (t) => {
  const path = folder.file('locked', 512);
  const writer = open(path);
  const locked = {
    name: 'UsageError',
    code: 'E_DISK_LOCKED',
    message: /another run is .*; stop that/,
  };
  t.throws(() => open(path), locked);
  t.throws(() => open(path, true), locked);
  writer.close();
  const reader = open(path, true);
  const second = open(path, true);
  t.throws(() => open(path), { code: 'E_DISK_LOCKED', message: /read-only in both$/ });
  reader.close();
  t.throws(() => open(path), { code: 'E_DISK_LOCKED' });
  second.close();
  open(path).close();
  t.equal(descriptors(path), 0, 'nothing stays open, after refusals either');
});

t.test('what cannot be a disk is refused', async (t) => {
  const odd = folder.file('odd', 1000);
  const empty = folder.file('empty', 0);
  const fifo = join(folder.path, 'fifo');
  const loop = join(folder.path, 'loop');
  execFileSync('mkfifo', [fifo]);
  symlinkSync(loop, loop);
  mkdirSync(join(folder.path, 'directory'));
  const cases: [path: string, code: string, message: RegExp][] = [
    [join(folder.path, 'missing'), 'E_DISK_ENOENT', /truncate -s 4G .*missing$/],
    [join(odd, 'below'), 'E_DISK_ENOTDIR', /not a directory/],
    [join(folder.path, 'directory'), 'E_DISK_KIND', /is a directory/],
    [fifo, 'E_DISK_KIND', /neither a file nor a block device/],
    ['/dev/null', 'E_DISK_KIND', /neither a file nor a block device/],
    [loop, 'E_DISK_ELOOP', /ELOOP/],
    [odd, 'E_DISK_SIZE', /1000 bytes.*truncate -s %512 .*odd$/],
    [empty, 'E_DISK_SIZE', /is empty/],
  ];
  for (const [path, code, message] of cases) {
    t.throws(() => open(path), { name: 'UsageError', code, message }, path);
  }
  t.equal(descriptors(odd), 0);
});

t.test('the remedy for an odd size works', async (t) => {
  const path = folder.file('padded', 1000);
  execFileSync('truncate', ['-s', '%512', path]);
  const file = open(path);
  t.equal(file.geometry.size, 1024);
  file.close();
});

t.test('a read-only disk of an odd size counts its last sector', async (t) => {
  const path = folder.file('tar', 1000);
  const file = open(path, true);
  t.same([file.geometry.size, file.geometry.fileSize], [1024, 1000]);
  t.equal(file.geometry.discard, false);
  file.close();
  t.equal(statSync(path).size, 1000);
});

t.test(
  'no permission to write',
  { skip: process.getuid?.() === 0 && 'root may all' },
  async (t) => {
    const path = folder.file('private', 512);
    chmodSync(path, 0o400);
    t.throws(() => open(path), { code: 'E_DISK_EACCES', message: /or attach the disk read-only$/ });
    open(path, true).close();
  },
);

t.test('a program that runs is refused for writing', async (t) => {
  t.throws(() => open(process.execPath), { name: 'UsageError', code: 'E_DISK_ETXTBSY' });
});
