/** What open flags and offsets of the guest mean on the host: what they mean in the guest, no more. */
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import {
  O_APPEND,
  O_DSYNC,
  O_NOATIME,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_SYNC,
  O_TRUNC,
  O_WRONLY,
} from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import {
  createdHandle,
  FsDriver,
  handleOf,
  pack,
  SharedFolder,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const O_DIRECT = 0o40000;
const CACHE = { write_flags: fuse.FUSE_WRITE_CACHE };
const SKIP_UNLESS_ROOT = process.getuid?.() === 0 ? false : 'needs root';
const text = (bytes: string): Buffer => Buffer.from(bytes);

/** Handles of one file that was opened, and that was made, with O_APPEND. */
function appenders(fs: FsDriver): readonly (readonly [string, number])[] {
  return [
    ['file', handleOf(fs.open(fs.find('file'), O_RDWR | O_APPEND))],
    ['made', createdHandle(fs.create(ROOT, 'made', O_RDWR | O_APPEND))],
  ];
}

t.test('O_APPEND: what was stored into mapped pages goes to its place', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  for (const [name, fh] of appenders(fs)) {
    writeFileSync(folder.at(name), '0123456789');
    // The handle is any that the file is open by (FUSE_WRITE_CACHE); flags are not passed on then.
    fs.write(fh, 0, text('ab'), CACHE);
    fs.write(fh, 4, text('cd'), { ...CACHE, flags: O_RDWR | O_APPEND });
    t.equal(readFileSync(folder.at(name), 'utf8'), 'ab23cd6789', name);
  }
});

t.test('O_APPEND taken back by fcntl(2): the offset counts', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  for (const [name, fh] of appenders(fs)) {
    writeFileSync(folder.at(name), '0123456789');
    t.equal(fs.write(fh, 0, text('ab'), { flags: O_RDWR }).error, 0);
    t.equal(readFileSync(folder.at(name), 'utf8'), 'ab23456789', name);
  }
});

t.test('O_APPEND given by fcntl(2), or at open: behind what the host appended', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const later = handleOf(fs.open(fs.find('file'), O_WRONLY));
  for (const [name, fh] of [...appenders(fs), ['file', later] as const]) {
    writeFileSync(folder.at(name), 'host,');
    fs.write(fh, 0, text('guest,'), { flags: O_RDWR | O_APPEND });
    appendFileSync(folder.at(name), 'host,');
    fs.write(fh, 11, text('guest'), { flags: O_RDWR | O_APPEND });
    t.equal(readFileSync(folder.at(name), 'utf8'), 'host,guest,host,guest', name);
  }
});

t.test('O_APPEND to what has no end', async (t) => {
  const filter = `/proc/${process.pid}/coredump_filter`;
  const before = readFileSync(filter, 'utf8').trim();
  using fs = new FsDriver(`/proc/${process.pid}`);
  const fh = handleOf(fs.open(fs.find('coredump_filter'), O_WRONLY | O_APPEND));
  t.equal(fs.write(fh, 0, text('0x7'), { flags: O_WRONLY | O_APPEND }).error, 0);
  t.equal(Number.parseInt(readFileSync(filter, 'utf8'), 16), 7);
  writeFileSync(filter, `0x${before}`);
});

t.test('O_APPEND: COPY_FILE_RANGE, FALLOCATE and SETATTR of such a handle', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const from = handleOf(fs.open(fs.find('folder', 'inner')));
  for (const [name, fh] of appenders(fs)) {
    const id = fs.find(name);
    fs.setattr(id, { valid: fuse.FATTR_SIZE | fuse.FATTR_FH, size_: 4, fh });
    const ends = { fh_in: from, off_in: 1, fh_out: fh, off_out: 1, len: 2 };
    const copy = pack(fuse.fuse_copy_file_range_in, ends);
    t.equal(fs.request(fuse.FUSE_COPY_FILE_RANGE, id, copy, 8).error, 0, 'its offset counts');
    const hole = pack(fuse.fuse_fallocate_in, { fh, mode: 3, offset: 3, length: 1 });
    t.equal(fs.request(fuse.FUSE_FALLOCATE, id, hole).error, 0);
    const content = readFileSync(folder.at(name), 'latin1');
    t.equal(content.length, 4, name);
    t.equal(content.slice(1), 'nn\0', name);
  }
});

t.test('a file that can only be appended to (chattr +a)', async (t) => {
  using folder = new SharedFolder();
  const attributed = spawnSync('chattr', ['+a', folder.at('file')]).status === 0;
  if (!attributed) return t.comment('the file system or the user cannot have one');
  try {
    const fs = folder.driver();
    const id = fs.find('file');
    t.equal(fs.open(id, O_RDWR).error, errno.EPERM);
    t.equal(fs.open(id, O_RDWR | O_APPEND | O_TRUNC).error, errno.EPERM);
    const fh = handleOf(fs.open(id, O_RDWR | O_APPEND | O_NOATIME));
    t.equal(fs.write(fh, 0, text('!'), { flags: O_RDWR | O_APPEND }).error, 0);
    t.equal(fs.write(fh, 0, text('x'), { flags: O_RDWR }).error, errno.EPERM);
    t.equal(fs.write(fh, 0, text('x'), CACHE).error, errno.EPERM, 'it has no place there');
    t.equal(readFileSync(folder.at('file'), 'utf8'), 'content of the file!');
  } finally {
    spawnSync('chattr', ['-a', folder.at('file')]);
  }
});

/** Flags of the process's last descriptor of a file, as the kernel has them. */
function hostFlags(file: string): number {
  const fds = readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === file;
    } catch {
      return false;
    }
  });
  const infos = fds.map((fd) => readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
  const flags = infos.map((info) => Number.parseInt(/flags:\s+(\d+)/.exec(info)?.[1] ?? '', 8));
  return flags.find((value) => (value & 0o10000000) === 0) ?? Number.NaN;
}

t.test('which flags of an open reach the host', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const heeded = O_SYNC | O_NOATIME;
  const all = heeded | O_DIRECT | O_NONBLOCK | O_APPEND;
  for (const [flags, kept] of [
    [O_RDWR | all, heeded],
    [O_WRONLY | O_DSYNC, O_DSYNC],
    [O_RDONLY | O_DIRECT | O_NONBLOCK, 0],
  ] as const) {
    const fh = handleOf(fs.open(fs.find('file'), flags));
    const seen = hostFlags(folder.at('file'));
    t.equal(seen & (all | O_DSYNC), kept, `${flags.toString(8)}: ${seen.toString(8)}`);
    fs.release(fh);
  }
  const made = createdHandle(fs.create(ROOT, 'made', O_RDWR | all));
  t.equal(hostFlags(folder.at('made')) & (all | O_DSYNC), heeded, 'of a new file as well');
  fs.release(made);
});

t.test('O_NOATIME leaves the access time alone, of folders as well', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  for (const flags of [O_NOATIME, 0]) {
    for (const name of ['file', 'folder']) utimesSync(folder.at(name), 1, 2);
    fs.read(handleOf(fs.open(fs.find('file'), flags)), 0, 10);
    const id = fs.find('folder');
    const opened = fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in, { flags }), 16);
    const list = pack(fuse.fuse_read_in, { fh: handleOf(opened), size_: 1000 });
    t.equal(fs.request(fuse.FUSE_READDIR, id, list, 1000).error, 0);
    for (const name of ['file', 'folder']) {
      const { atimeMs } = statSync(folder.at(name));
      if (flags !== 0) t.equal(atimeMs, 1000, name);
      else if (atimeMs === 1000) t.comment('it is mounted noatime');
    }
  }
});

t.test(
  'each change clears set-user-ID for users who may not keep it',
  { skip: SKIP_UNLESS_ROOT },
  async (t) => {
    using folder = new SharedFolder();
    const fs = folder.driver();
    const id = fs.find('file');
    const fh = handleOf(fs.open(id, O_RDWR));
    const from = createdHandle(fs.create(ROOT, 'from'));
    fs.write(from, 0, text('xyz'));
    const kill = { write_flags: fuse.FUSE_WRITE_KILL_SUIDGID };
    const open_flags = fuse.FUSE_OPEN_KILL_SUIDGID;
    const copied = { fh_in: from, fh_out: fh, len: 3 };
    const size = { valid: fuse.FATTR_SIZE | fuse.FATTR_KILL_SUIDGID, size_: 3 };
    const changes: readonly (readonly [string, () => unknown])[] = [
      ['WRITE', () => fs.write(fh, 0, text('x'), kill)],
      ['WRITE of a mapping', () => fs.write(fh, 0, text('x'), { write_flags: 5 })],
      ['SETATTR', () => fs.setattr(id, size)],
      [
        'OPEN',
        () =>
          fs.request(
            fuse.FUSE_OPEN,
            id,
            pack(fuse.fuse_open_in, { flags: O_TRUNC, open_flags }),
            16,
          ),
      ],
      [
        'FALLOCATE',
        () =>
          fs.request(fuse.FUSE_FALLOCATE, id, pack(fuse.fuse_fallocate_in, { fh, length: 4096 })),
      ],
      [
        'COPY_FILE_RANGE',
        () =>
          fs.request(fuse.FUSE_COPY_FILE_RANGE, id, pack(fuse.fuse_copy_file_range_in, copied), 8),
      ],
    ];
    fs.uid = 1000;
    for (const [name, change] of changes) {
      chmodSync(folder.at('file'), 0o6755);
      change();
      t.equal(statSync(folder.at('file')).mode & 0o7777, 0o755, name);
    }
    fs.uid = 0;
    for (const [name, change] of changes.slice(4)) {
      chmodSync(folder.at('file'), 0o6755);
      change();
      t.equal(statSync(folder.at('file')).mode & 0o7777, 0o6755, `${name} by root`);
    }
  },
);

t.test('what is beyond every file', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const id = fs.find('file');
  const fh = handleOf(fs.open(id, O_RDWR));
  const fallocate = (offset: bigint): number =>
    fs.request(fuse.FUSE_FALLOCATE, id, pack(fuse.fuse_fallocate_in, { fh, offset, length: 1 }))
      .error;
  for (const [at, error] of [
    [2n ** 62n, errno.EFBIG],
    [2n ** 63n, errno.EINVAL],
  ] as const) {
    t.equal(fs.write(fh, at, text('x')).error, error);
    t.equal(fs.write(fh, at, text('x'), { flags: O_APPEND }).error, error);
    t.equal(fallocate(at), error);
    t.equal(fs.setattr(id, { valid: fuse.FATTR_SIZE, size_: at }).error, error);
  }
  t.equal(statSync(folder.at('file')).size, 19);
});
