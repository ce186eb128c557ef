/** The file system device (virtio 1.3 §5.11): its configuration, a mount from begin to end, its limits. */
import { chmodSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { O_TRUNC } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import { virtio_fs_config } from '../../../../src/abi/fuse.ts';
import { createFsDevice } from '../../../../src/virtio/device/fs/fs.ts';
import { fsType } from '../../../../src/virtio/device/fs/fs-type.ts';
import { checkBackendOptions } from '../../../support/rigs/backend-options.ts';
import {
  attribute,
  field,
  handleOf,
  join,
  openDescriptors,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const CONTENT = 'content of the file';

t.test('§5.11.4 the configuration: tag and number of request queues', async (t) => {
  using folder = new SharedFolder();
  const device = createFsDevice({ name: 'fs0', tag: 'ordner-ä', source: folder.path, queues: 3 });
  const { tag, num_request_queues } = virtio_fs_config;
  const shown = Buffer.from(device.config.subarray(tag.offset, tag.length));
  t.equal(shown.toString(), 'ordner-ä'.padEnd(35, '\0'), '36 bytes, filled with zeroes');
  t.equal(device.config[num_request_queues.offset], 3);
  t.same(
    device.queues.map(({ name }) => name),
    ['hiprio', 'requestq1', 'requestq2', 'requestq3'],
  );
  t.equal(device.features, 0n);
  device.close();
});

t.test('what cannot be shared is refused in one line', async (t) => {
  using folder = new SharedFolder();
  const make = (options: object) => () =>
    createFsDevice({ name: 'fs0', tag: 'a', source: folder.path, ...options });
  const wrong: readonly (readonly [object, string, RegExp])[] = [
    [{ source: folder.at('none') }, 'E_FS_ENOENT', /mkdir -p .*none/],
    [{ source: folder.at('file') }, 'E_FS_ENOTDIR', /is not a folder/],
  ];
  const before = openDescriptors();
  for (const [options, code, message] of wrong) t.throws(make(options), { code, message });
  t.equal(openDescriptors(), before);
});

t.test('options that cannot be are refused in one line', async (t) => {
  for (const [options, code, message] of [
    [{ tag: '' }, 'E_FS_TAG', /must be a tag of 1 to 36 bytes/],
    [{ tag: 'ä'.repeat(19) }, 'E_FS_TAG', /1 to 36 bytes/],
    [{ xattr: 'all' }, 'E_FS_XATTR', /mapped or passthrough/],
    [{ queues: 17 }, 'E_FS_QUEUES', /1 to 16/],
  ] as const) {
    const given = { tag: 'a', source: '/', ...options };
    t.throws(() => checkBackendOptions(fsType, 'folder', given), { code, message });
  }
});

t.test('INIT: versions and features', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver({ mount: false });
  const init = (major: number, minor: number, flags = 0xffffffff) =>
    fs.request(
      fuse.FUSE_INIT,
      0,
      pack(fuse.fuse_init_in, { major, minor, flags, max_readahead: 4096 }),
      fuse.fuse_init_out.size,
    );
  t.equal(init(6, 31).error, errno.EPROTO);
  t.equal(init(7, 30).error, errno.EPROTO);
  const out = fuse.fuse_init_out;
  const newer = init(8, 0);
  t.same([field(newer.data, out.major), field(newer.data, out.max_write)], [7, 0]);
  const { data } = init(7, 45);
  t.same([field(data, out.major), field(data, out.minor)], [7, 38]);
  t.equal(field(data, out.max_write), 2 ** 20);
  t.equal(field(data, out.max_pages), 256);
  const flags = field(data, out.flags);
  t.ok((flags & fuse.FUSE_MAX_PAGES) !== 0);
  t.equal(flags & ((1 << 16) | (1 << 1)), 0, 'no write-back or locks');
  const acls = fuse.FUSE_POSIX_ACL | fuse.FUSE_DONT_MASK | fuse.FUSE_SETXATTR_EXT;
  t.equal(flags & acls, acls);
  for (const one of [fuse.FUSE_POSIX_ACL, fuse.FUSE_DONT_MASK, fuse.FUSE_SETXATTR_EXT]) {
    const some = field(init(7, 38, 0x7fffffff & ~one).data, out.flags);
    t.equal(some & acls, 0, 'ACLs with all they need, or none');
  }
  t.equal(field(init(7, 31, fuse.FUSE_ASYNC_READ).data, out.flags), fuse.FUSE_ASYNC_READ);
  const id = fs.find('file');
  t.equal(fs.getattr(id).error, 0);
  t.equal(fs.request(fuse.FUSE_DESTROY, 0, new Uint8Array(0)).error, 0);
  t.equal(fs.getattr(id).error, errno.ESTALE, 'DESTROY ends it');
});

t.test('what is not served is ENOSYS', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  for (const opcode of [0, 7, 19, 31, 32, 33, 34, 37, 39, 40, 48, 49, 52, 4096, 0xffffffff]) {
    t.equal(fs.request(opcode, ROOT, new Uint8Array(64), 64).error, errno.ENOSYS, `${opcode}`);
  }
});

t.test('a read-only folder stays as it is', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver({ readOnly: true });
  const id = fs.find('file');
  t.equal(Buffer.from(fs.read(handleOf(fs.open(id)), 0, 99).bytes).toString(), CONTENT);
  for (const flags of [1, 2, O_TRUNC]) t.equal(fs.open(id, flags).error, errno.EROFS);
  chmodSync(folder.at('file'), 0o4755);
  const kill = pack(fuse.fuse_open_in, { open_flags: fuse.FUSE_OPEN_KILL_SUIDGID });
  t.equal(fs.request(fuse.FUSE_OPEN, id, kill, 16).error, 0);
  t.equal(statSync(folder.at('file')).mode & 0o7777, 0o4755);
  t.equal(fs.create(ROOT, 'file').error, errno.EROFS);
  t.equal(fs.setattr(id, { valid: fuse.FATTR_MODE }).error, errno.EROFS);
  const body = join(new Uint8Array(64), text('a'), text('b'));
  for (const opcode of [
    fuse.FUSE_SYMLINK,
    fuse.FUSE_MKNOD,
    fuse.FUSE_MKDIR,
    fuse.FUSE_UNLINK,
    fuse.FUSE_RMDIR,
    fuse.FUSE_RENAME,
    fuse.FUSE_RENAME2,
    fuse.FUSE_LINK,
    fuse.FUSE_WRITE,
    fuse.FUSE_SETXATTR,
    fuse.FUSE_REMOVEXATTR,
    fuse.FUSE_FALLOCATE,
    fuse.FUSE_COPY_FILE_RANGE,
  ]) {
    t.equal(fs.request(opcode, ROOT, body, 256).error, errno.EROFS, `opcode ${opcode}`);
  }
  t.same(readdirSync(folder.path).sort(), ['file', 'folder']);
});

t.test('a hand-over keeps what the guest knows, a reset and a mount do not', async (t) => {
  using folder = new SharedFolder();
  const before = openDescriptors();
  const fs = folder.driver();
  const idle = openDescriptors();
  const id = fs.find('file');
  const handle = handleOf(fs.open(id));
  fs.handOver();
  t.equal(Buffer.from(fs.read(handle, 0, 7).bytes).toString(), 'content');
  t.equal(fs.getattr(id).error, 0);
  t.equal(fs.init().error, 0);
  t.equal(fs.read(handle, 0, 7).error, errno.EBADF, 'a mount begins with nothing');
  t.equal(openDescriptors(), idle);
  handleOf(fs.open(fs.find('folder', 'inner')));
  fs.reset();
  t.equal(openDescriptors(), idle, 'a reset closes all');
  fs.start();
  t.equal(fs.getattr(id).error, errno.ESTALE);
  renameSync(folder.at('file'), folder.at('renamed'));
  t.equal(attribute(fs.lookup(ROOT, 'renamed'), 'size_', ENTRY), CONTENT.length);
  fs[Symbol.dispose]();
  t.equal(openDescriptors(), before);
});

t.test('options that cannot be are refused in one line', async (t) => {
  for (const [options, code, message] of [
    [{ tag: '' }, 'E_FS_TAG', /must be a tag of 1 to 36 bytes/],
    [{ tag: 'ä'.repeat(19) }, 'E_FS_TAG', /1 to 36 bytes/],
    [{ xattr: 'all' }, 'E_FS_XATTR', /mapped or passthrough/],
    [{ queues: 17 }, 'E_FS_QUEUES', /1 to 16/],
  ] as const) {
    const given = { tag: 'a', source: '/', ...options };
    t.throws(() => checkBackendOptions(fsType, 'folder', given), { code, message });
  }
});

t.test('a guest with a new device finds its names again', async (t) => {
  using folder = new SharedFolder();
  const before = folder.driver();
  const id = before.find('folder', 'inner');
  const handle = handleOf(before.open(id));
  before[Symbol.dispose]();
  const fs = folder.driver({ mount: false });
  const others = Array.from({ length: 3 }, () => fs.find('file'));
  for (const nodeid of others) fs.open(nodeid);
  t.equal(fs.getattr(id).error, errno.ESTALE, 'no number is reused for another file');
  t.equal(fs.read(handle, 0, 1).error, errno.EBADF);
  t.equal(fs.lookup(fs.find('folder'), 'inner').error, 0);
});

t.test('too many files are ENFILE and EMFILE', async (t) => {
  using folder = new SharedFolder();
  for (let i = 0; i < 20; i++) writeFileSync(folder.at(`f${i}`), '');
  const fs = folder.driver({ maxFiles: 12 });
  const found = Array.from({ length: 20 }, (_, i) => fs.lookup(ROOT, `f${i}`).error);
  t.same([...new Set(found)], [0, errno.ENFILE]);
  const held = found.filter((error) => error === 0).length;
  t.equal(held, 8, 'three quarters of them, the root among them');
  const opened = Array.from({ length: 6 }, () => fs.open(fs.find('f0')).error);
  t.same([...new Set(opened)], [0, errno.EMFILE]);
  const before = openDescriptors();
  t.equal(fs.create(ROOT, 'more').error, errno.ENFILE);
  t.equal(openDescriptors(), before);
  fs.forget(fs.find('f1'), 2);
  t.equal(fs.lookup(ROOT, 'f19').error, 0, 'what is forgotten makes room');
});
