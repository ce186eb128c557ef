/** Files and their attributes, by requests of linux/fuse.h to the file system device. */
import { lstatSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { O_EXCL, O_RDWR, O_TRUNC } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import { VIRTIO_F_RING_PACKED } from '../../../../src/abi/virtio-ring.ts';
import {
  attribute,
  createdHandle,
  field,
  handleOf,
  join,
  nodeOf,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const CONTENT = 'content of the file';
const SKIP_UNLESS_ROOT = process.getuid?.() === 0 ? false : 'needs root';

t.test('OPEN, READ, RELEASE', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const id = fs.find('file');
  const opened = fs.open(id);
  const handle = handleOf(opened);
  t.equal(field(opened.data, fuse.fuse_open_out.open_flags), fuse.FOPEN_NOFLUSH);
  t.equal(Buffer.from(fs.read(handle, 0, 4096).bytes).toString(), CONTENT);
  t.equal(Buffer.from(fs.read(handle, 11, 3).bytes).toString(), 'the');
  t.equal(fs.read(handle, 19, 100).written, 16, 'nothing behind the end');
  t.equal(fs.read(handle, 2n ** 53n, 1).error, errno.EINVAL);
  t.equal(fs.read(handle, 2n ** 64n - 1n, 1).error, errno.EINVAL);
  t.equal(fs.write(handle, 0, Buffer.from('x')).error, errno.EBADF, 'opened to read');
  t.equal(fs.open(id, 3).error, errno.EINVAL);
  t.equal(fs.open(fs.find('folder')).error, errno.EISDIR);
  t.equal(fs.release(handle, fuse.FUSE_RELEASEDIR).error, errno.EBADF, 'it is no folder');
  t.equal(fs.release(handle).error, 0);
  t.equal(fs.release(handle).error, errno.EBADF);
  t.equal(fs.read(handle, 0, 1).error, errno.EBADF);
});

t.test('§2.6.4 READ and WRITE in any layout', async (t) => {
  for (const ring of [[], [VIRTIO_F_RING_PACKED]]) {
    using folder = new SharedFolder();
    const fs = folder.driver({ ring });
    const handle = handleOf(fs.open(fs.find('file'), O_RDWR));
    const data = Buffer.from(Array.from({ length: 3000 }, (_, i) => (i * 7) & 0xff));
    const body = join(pack(fuse.fuse_write_in, { fh: handle, offset: 5, size_: 3000 }), data);
    const whole = join(fs.header(fuse.FUSE_WRITE, 0, body.length), body);
    for (const cuts of [[40, 80], [1, 2, 3, 100], [37, 81, 1000, 2999], []]) {
      const ends = [...cuts, whole.length];
      const pieces = ends.map((end, i) => whole.subarray(i === 0 ? 0 : ends[i - 1], end));
      const wrote = fs.send(pieces, [7, 9, 8]);
      t.equal(wrote.written, 24);
      t.equal(Buffer.from(wrote.data).readUInt32LE(16), 3000);
      const asked = pack(fuse.fuse_read_in, { fh: handle, offset: 6, size_: 2990 });
      for (const rooms of [[16, 2990], [3, 5, 8, 2990], [17, 2989], [16, 1, 2, 2987], [3006]]) {
        const read = fs.send([join(fs.header(fuse.FUSE_READ, 0, asked.length), asked)], rooms);
        t.equal(read.written, 16 + 2990, `${pieces.length} pieces, ${rooms.length} rooms`);
        t.equal(Buffer.compare(read.data.subarray(16), data.subarray(1, 2991)), 0);
      }
      fs.write(handle, 0, new Uint8Array(4000));
    }
  }
});

t.test('CREATE and WRITE', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const made = fs.create(ROOT, 'new', O_RDWR, 0o646);
  const handle = createdHandle(made);
  t.equal(fs.write(handle, 3, Buffer.from('abc')).data.getUint32(0, true), 3);
  t.same(readFileSync(folder.at('new')), Buffer.from('\0\0\0abc'));
  t.equal(statSync(folder.at('new')).mode & 0o777, 0o646, 'no umask of ours');
  t.equal(attribute(fs.getattr(nodeOf(made)), 'size_'), 6);
  t.equal(fs.create(ROOT, 'new', O_RDWR | O_EXCL).error, errno.EEXIST);
  const again = fs.create(ROOT, 'new', O_RDWR | O_TRUNC);
  t.equal(nodeOf(again), nodeOf(made));
  t.equal(attribute(again, 'size_', ENTRY), 0, 'the reply has the size after truncation');
  t.equal(fs.write(handle, 2n ** 53n, Buffer.from('x')).error, errno.EFBIG);
  t.equal(fs.write(handle, 2n ** 63n, Buffer.from('x')).error, errno.EINVAL);
  t.equal(fs.create(ROOT, 'folder').error, errno.EISDIR);
});

t.test('SETATTR', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const id = fs.find('file');
  const stat = () => statSync(folder.at('file'));
  const mode = fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o100611 });
  t.same([attribute(mode, 'mode'), stat().mode], [0o100611, 0o100611]);
  t.equal(attribute(fs.setattr(id, { valid: fuse.FATTR_SIZE, size_: 7 }), 'size_'), 7);
  const handle = handleOf(fs.open(id, O_RDWR));
  fs.setattr(id, { valid: fuse.FATTR_SIZE | fuse.FATTR_FH, size_: 9, fh: handle });
  t.equal(stat().size, 9);
  const times = { atime: 11, atimensec: 22, mtime: -5, mtimensec: 500_000_000 };
  fs.setattr(id, { valid: fuse.FATTR_ATIME | fuse.FATTR_MTIME, ...times });
  t.same([stat().atimeMs, stat().mtimeMs], [11_000.000022, -4_500]);
  const now = fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW;
  fs.setattr(id, { valid: now, mtimensec: 1e9 });
  t.ok(Math.abs(stat().mtimeMs - Date.now()) < 60_000);
  t.equal(stat().atimeMs, 11_000.000022, 'and nothing else');
  const wrong: readonly (readonly [object, number])[] = [
    [{ valid: fuse.FATTR_SIZE, size_: 2n ** 63n }, errno.EINVAL],
    [{ valid: fuse.FATTR_SIZE, size_: 2n ** 62n }, errno.EFBIG],
    [{ valid: fuse.FATTR_SIZE | fuse.FATTR_FH, fh: 99 }, errno.EBADF],
    [{ valid: fuse.FATTR_MTIME, mtimensec: 1e9 }, errno.EINVAL],
  ];
  for (const [values, error] of wrong) t.equal(fs.setattr(id, { ...values }).error, error);
  const size = { valid: fuse.FATTR_SIZE, size_: 0 };
  t.equal(fs.setattr(fs.find('folder'), size).error, errno.EISDIR);
  symlinkSync('file', folder.at('link'));
  t.equal(fs.setattr(fs.find('link'), size).error, errno.EINVAL);
  t.equal(stat().size, 9, 'a link is not followed');
});

t.test('SETATTR of owner and group', { skip: SKIP_UNLESS_ROOT }, async (t) => {
  using folder = new SharedFolder();
  symlinkSync('file', folder.at('link'));
  const fs = folder.driver();
  fs.setattr(fs.find('file'), { valid: fuse.FATTR_UID | fuse.FATTR_GID, uid: 5, gid: 6 });
  fs.setattr(fs.find('link'), { valid: fuse.FATTR_GID, gid: 7 });
  const owners = ['file', 'link'].map((name) => lstatSync(folder.at(name)));
  t.same(
    owners.map(({ uid, gid }) => [uid, gid]),
    [
      [5, 6],
      [0, 7],
    ],
  );
});

t.test(
  'set-user-ID is cleared when the driver asks for it',
  { skip: SKIP_UNLESS_ROOT },
  async (t) => {
    using folder = new SharedFolder();
    const fs = folder.driver();
    const id = fs.find('file');
    const arm = (): void => {
      fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o6755 });
    };
    const mode = (): number => statSync(folder.at('file')).mode & 0o7777;
    arm();
    const handle = handleOf(fs.open(id, O_RDWR));
    fs.write(handle, 0, Buffer.from('x'));
    t.equal(mode(), 0o6755, 'root may');
    const head = { fh: handle, size_: 1, write_flags: fuse.FUSE_WRITE_KILL_SUIDGID };
    const body = join(pack(fuse.fuse_write_in, head), Buffer.from('x'));
    fs.request(fuse.FUSE_WRITE, id, body, 8);
    t.equal(mode(), 0o755);
    arm();
    fs.setattr(id, { valid: fuse.FATTR_SIZE | fuse.FATTR_KILL_SUIDGID, size_: 3 });
    t.equal(mode(), 0o755);
    arm();
    const flags = { flags: O_RDWR | O_TRUNC, open_flags: fuse.FUSE_OPEN_KILL_SUIDGID };
    fs.request(fuse.FUSE_OPEN, id, pack(fuse.fuse_open_in, flags), 16);
    t.equal(mode(), 0o755);
  },
);

t.test('a file that was removed while open keeps working', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const id = fs.find('file');
  const handle = handleOf(fs.open(id, O_RDWR));
  t.equal(fs.request(fuse.FUSE_UNLINK, ROOT, text('file')).error, 0);
  t.equal(fs.write(handle, 0, Buffer.from('CON')).error, 0);
  t.equal(Buffer.from(fs.read(handle, 0, 7).bytes).toString(), 'CONtent');
  t.equal(attribute(fs.getattr(id), 'nlink'), 0);
  t.equal(fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o600 }).error, 0);
  t.equal(fs.setattr(id, { valid: fuse.FATTR_SIZE, size_: 2 }).error, 0);
});

t.test('STATFS, FLUSH, FSYNC, SYNCFS, FALLOCATE, LSEEK, COPY_FILE_RANGE', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const id = fs.find('file');
  const fh = handleOf(fs.open(id, O_RDWR));
  const { size, namelen, blocks } = fuse.fuse_kstatfs;
  const { data } = fs.request(fuse.FUSE_STATFS, ROOT, new Uint8Array(0), size);
  t.equal(field(data, namelen), 255);
  t.ok(field(data, blocks) > 0);
  t.equal(fs.request(fuse.FUSE_FLUSH, id, pack(fuse.fuse_flush_in, { fh })).error, 0);
  for (const fsync_flags of [0, 1]) {
    const body = pack(fuse.fuse_fsync_in, { fh, fsync_flags });
    t.equal(fs.request(fuse.FUSE_FSYNC, id, body).error, 0);
  }
  t.equal(fs.request(fuse.FUSE_SYNCFS, ROOT, pack(fuse.fuse_syncfs_in)).error, 0);
  const fallocate = (mode: number, offset: number | bigint, length: number | bigint): number =>
    fs.request(fuse.FUSE_FALLOCATE, id, pack(fuse.fuse_fallocate_in, { fh, mode, offset, length }))
      .error;
  t.equal(fallocate(0, 0, 2 ** 20), 0);
  t.equal(statSync(folder.at('file')).size, 2 ** 20);
  t.equal(fallocate(3, 0, 2 ** 19), 0, 'a hole');
  t.equal(fallocate(8, 0, 4096), errno.EOPNOTSUPP);
  t.equal(fallocate(0, 2n ** 63n, 1), errno.EINVAL);
  fs.write(fh, 2 ** 19, Buffer.from('data'));
  const lseek = (offset: number | bigint, whence: number): ReturnType<typeof fs.getattr> =>
    fs.request(fuse.FUSE_LSEEK, id, pack(fuse.fuse_lseek_in, { fh, offset, whence }), 8);
  t.equal(Number(lseek(0, 3).data.getBigUint64(0, true)), 2 ** 19, 'SEEK_DATA');
  t.equal(lseek(2 ** 21, 3).error, errno.ENXIO);
  t.equal(lseek(0, 0).error, errno.EINVAL);
  t.equal(lseek(2n ** 63n, 3).error, errno.EINVAL);
  const to = createdHandle(fs.create(ROOT, 'copy'));
  const copy = (values: object): ReturnType<typeof fs.getattr> =>
    fs.request(
      fuse.FUSE_COPY_FILE_RANGE,
      id,
      pack(fuse.fuse_copy_file_range_in, { fh_in: fh, fh_out: to, off_in: 2 ** 19, ...values }),
      8,
    );
  t.equal(copy({ off_out: 2, len: 4 }).data.getUint32(0, true), 4);
  t.equal(readFileSync(folder.at('copy'), 'utf8'), '\0\0data');
  t.equal(copy({ len: 2n ** 64n - 1n, off_out: 2n ** 63n }).error, errno.EINVAL);
  t.equal(copy({ len: 1, flags: 1 }).error, errno.EINVAL);
  t.equal(copy({ len: 1, fh_out: 99 }).error, errno.EBADF);
});
