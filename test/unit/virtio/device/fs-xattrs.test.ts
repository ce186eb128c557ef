/** Extended attributes, POSIX ACLs and capabilities. */
import { chmodSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { O_APPEND, O_RDWR, O_TRUNC } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import * as files from '../../../../src/host/file-system.ts';
import { NativeMemory } from '../../../../src/host/native-memory.ts';
import {
  createdHandle,
  FsDriver,
  type FsDriverOptions,
  type FuseResult,
  handleOf,
  join,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const SKIP_UNLESS_ROOT = process.getuid?.() === 0 ? false : 'needs root';
const CAPABILITY = 'security.capability';
/** Of linux/capability.h: VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted. */
const NET_RAW = Buffer.from('0100000200200000000000000000000000000000', 'hex');
const ACL = 'system.posix_acl_access';
const DEFAULT_ACL = 'system.posix_acl_default';

/** An ACL as linux/posix_acl_xattr.h has it, of tags, permissions and IDs. */
function acl(...entries: readonly (readonly [number, number, number?])[]): Buffer {
  const bytes = Buffer.alloc(4 + entries.length * 8);
  bytes.writeUInt32LE(2);
  entries.forEach(([tag, permissions, id = 0xffffffff], i) => {
    bytes.writeUInt16LE(tag, 4 + i * 8);
    bytes.writeUInt16LE(permissions, 6 + i * 8);
    bytes.writeUInt32LE(id, 8 + i * 8);
  });
  return bytes;
}
const USER_1000 = acl([1, 6], [2, 4, 1000], [4, 0], [16, 4], [32, 0]);

/** What system calls take. */
function memoryOf(bytes: Uint8Array): NativeMemory {
  const memory = new NativeMemory(Math.max(bytes.length, 1));
  memory.bytes.set(bytes);
  return memory;
}

/** The host's attributes, to compare with the guest's. */
function host(path: string, name: string): Buffer | number {
  const [place, key, to] = [memoryOf(text(path)), memoryOf(text(name)), new NativeMemory(256)];
  const got = files.getxattr(place.address, key.address, to.address, 256);
  return got < 0 ? got : Buffer.from(to.bytes.subarray(0, got));
}

/** Whether files in a folder can have ACLs at all. */
function hasAcls(folder: SharedFolder): boolean {
  writeFileSync(folder.at('try'), '');
  const [place, key] = [memoryOf(text(folder.at('try'))), memoryOf(text(ACL))];
  const value = memoryOf(USER_1000);
  const set = files.setxattr(place.address, key.address, value.address, USER_1000.length, 0);
  return set !== -errno.EOPNOTSUPP;
}

/** Requests on attributes of one file. */
function attributesOf(fs: FsDriver, id: number) {
  const list = (size: number): FuseResult =>
    fs.request(fuse.FUSE_LISTXATTR, id, pack(fuse.fuse_getxattr_in, { size_: size }), size || 8);
  return {
    list,
    set: (name: string, value: Uint8Array | string, flags = 0, setxattr_flags = 0): number =>
      fs.request(
        fuse.FUSE_SETXATTR,
        id,
        join(
          pack(fuse.fuse_setxattr_in, { size_: value.length, flags, setxattr_flags }),
          text(name),
          Buffer.from(value),
        ),
      ).error,
    get: (name: string, size = 200): FuseResult =>
      fs.request(
        fuse.FUSE_GETXATTR,
        id,
        join(pack(fuse.fuse_getxattr_in, { size_: size }), text(name)),
        Math.max(size, 8),
      ),
    remove: (name: string): number => fs.request(fuse.FUSE_REMOVEXATTR, id, text(name)).error,
    names: (): string[] =>
      Buffer.from(list(4000).bytes)
        .toString()
        .split('\0')
        .filter((name) => name !== '')
        .sort(),
  };
}

const contentOf = ({ bytes }: FuseResult): Buffer => Buffer.from(bytes);

/** A shared folder with a driver, and requests on its file; undefined where there are no attributes. */
function withAttributes(folder: SharedFolder, options?: FsDriverOptions) {
  const fs = folder.driver(options);
  const id = fs.find('file');
  const attributes = attributesOf(fs, id);
  const can = attributes.set('user.try', '') === 0;
  attributes.remove('user.try');
  return { fs, id, ...attributes, skip: can ? undefined : 'the file system has no attributes' };
}

t.test('those of users', async (t) => {
  using folder = new SharedFolder();
  const { fs, id, set, get, list, remove, names, skip } = withAttributes(folder);
  if (skip !== undefined) return t.comment(skip);
  t.equal(set('user.a', 'value'), 0);
  t.equal(set('user.a', 'x', 1), errno.EEXIST, 'XATTR_CREATE');
  t.equal(get('user.a', 0).data.getUint32(0, true), 5);
  t.equal(contentOf(get('user.a', 100)).toString(), 'value');
  t.equal(get('user.a', 2).error, errno.ERANGE);
  t.same(host(folder.at('file'), 'user.a'), Buffer.from('value'));
  for (const name of ['user', 'system.nfs4_acl', 'other.a', 'x']) {
    t.equal(set(name, 'x'), errno.EOPNOTSUPP, name);
    t.equal(get(name, 100).error, errno.EOPNOTSUPP, name);
    t.equal(remove(name), errno.EOPNOTSUPP, name);
  }
  t.equal(set('', 'x'), errno.EINVAL);
  t.equal(set(`user.${'x'.repeat(251)}`, 'x'), errno.ERANGE);
  t.equal(set(`security.${'x'.repeat(240)}`, 'x'), errno.ERANGE, 'too long with the prefix');
  set('user.b', '');
  t.equal(list(0).data.getUint32(0, true), 14);
  t.same(names(), ['user.a', 'user.b']);
  t.equal(list(8).error, errno.ERANGE);
  t.equal(remove('user.a'), 0);
  t.equal(list(0).data.getUint32(0, true), 7);
  // As it is without FUSE_SETXATTR_EXT.
  const short = pack(fuse.fuse_setxattr_in, { size_: 3 }).subarray(
    0,
    fuse.FUSE_COMPAT_SETXATTR_IN_SIZE,
  );
  const body = join(short, text('user.c'), Buffer.from('old'));
  t.equal(fs.request(fuse.FUSE_SETXATTR, id, body).error, 0);
  t.equal(contentOf(get('user.c')).toString(), 'old');
});

t.test('what means something to the host is kept under other names', async (t) => {
  using folder = new SharedFolder();
  const { set, get, remove, names, skip } = withAttributes(folder);
  if (skip !== undefined) return t.comment(skip);
  const guests = [CAPABILITY, 'security.selinux', 'trusted.overlay.opaque', 'user.virtiofs.x'];
  for (const name of guests) {
    t.equal(set(name, NET_RAW), 0, name);
    t.same(contentOf(get(name)), NET_RAW);
    t.same(host(folder.at('file'), `user.virtiofs.${name}`), NET_RAW);
    t.equal(host(folder.at('file'), name), -errno.ENODATA, 'the host has none by it');
  }
  set('user.own', '');
  t.same(names(), [...guests, 'user.own'].sort());
  for (const name of guests) t.equal(remove(name), 0);
  t.same(names(), ['user.own']);
  t.equal(remove(CAPABILITY), errno.ENODATA);
});

t.test('guests cannot reach them by their names on the host', async (t) => {
  using folder = new SharedFolder();
  const { set, get, names, remove, skip } = withAttributes(folder);
  if (skip !== undefined) return t.comment(skip);
  set(CAPABILITY, NET_RAW);
  const known = `user.virtiofs.${CAPABILITY}`;
  t.equal(get(known).error, errno.ENODATA);
  t.equal(remove(known), errno.ENODATA);
  t.equal(set(known, 'mine'), 0);
  t.same(contentOf(get(CAPABILITY)), NET_RAW, 'it is another one');
  t.same(contentOf(get(known)).toString(), 'mine');
  t.same(names(), [CAPABILITY, known]);
});

t.test('what the host has set itself', { skip: SKIP_UNLESS_ROOT }, async (t) => {
  using folder = new SharedFolder();
  const own = withAttributes(folder, { xattr: 'passthrough' });
  if (own.skip !== undefined) return t.comment(own.skip);
  t.equal(own.set(CAPABILITY, NET_RAW), 0);
  t.equal(own.set('trusted.a', 'x'), 0);
  t.same(host(folder.at('file'), CAPABILITY), NET_RAW, 'it is the host’s own');
  t.ok(own.names().includes('trusted.a'));
  t.ok(own.names().includes(CAPABILITY));
  const mapped = withAttributes(folder);
  t.equal(mapped.get(CAPABILITY).error, errno.ENODATA);
  t.equal(mapped.get('trusted.a').error, errno.ENODATA);
  t.same(mapped.names(), []);
  t.equal(own.remove(CAPABILITY), 0);
  t.equal(own.remove('trusted.a'), 0);
});

t.test('changing a file drops its capabilities', { skip: SKIP_UNLESS_ROOT }, async (t) => {
  for (const xattr of ['mapped', 'passthrough'] as const) {
    using folder = new SharedFolder();
    const { fs, id, set, get, skip } = withAttributes(folder, { xattr });
    if (skip !== undefined) return t.comment(skip);
    const fh = handleOf(fs.open(id, O_RDWR));
    const from = createdHandle(fs.create(ROOT, 'from'));
    fs.write(from, 0, Buffer.from('xyz'));
    const size = { valid: fuse.FATTR_SIZE, size_: 5 };
    const copy = pack(fuse.fuse_copy_file_range_in, { fh_in: from, fh_out: fh, len: 3 });
    const allocate = pack(fuse.fuse_fallocate_in, { fh, length: 4096 });
    const changes: readonly (readonly [string, () => FuseResult])[] = [
      ['WRITE', () => fs.write(fh, 0, Buffer.from('x'))],
      ['WRITE at the end', () => fs.write(fh, 0, Buffer.from('x'), { flags: O_APPEND })],
      ['SETATTR of its size', () => fs.setattr(id, size)],
      [
        'SETATTR by handle',
        () => fs.setattr(id, { ...size, valid: fuse.FATTR_SIZE | fuse.FATTR_FH, fh }),
      ],
      ['SETATTR of its owner', () => fs.setattr(id, { valid: fuse.FATTR_UID, uid: 7 })],
      ['SETATTR of its group', () => fs.setattr(id, { valid: fuse.FATTR_GID, gid: 7 })],
      ['OPEN with O_TRUNC', () => fs.open(id, O_RDWR | O_TRUNC)],
      ['CREATE with O_TRUNC', () => fs.create(ROOT, 'file', O_RDWR | O_TRUNC)],
      ['FALLOCATE', () => fs.request(fuse.FUSE_FALLOCATE, id, allocate)],
      ['COPY_FILE_RANGE', () => fs.request(fuse.FUSE_COPY_FILE_RANGE, id, copy, 8)],
    ];
    for (const [name, change] of changes) {
      t.equal(set(CAPABILITY, NET_RAW), 0);
      t.equal(change().error, 0, name);
      t.equal(get(CAPABILITY).error, errno.ENODATA, `${xattr}: ${name}`);
    }
    set(CAPABILITY, NET_RAW);
    fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o755 });
    fs.read(fh, 0, 5);
    fs.setattr(id, { valid: fuse.FATTR_MTIME, mtime: 5 });
    t.same(contentOf(get(CAPABILITY)), NET_RAW, 'nothing else does');
  }
});

t.test('POSIX ACLs are the host’s own', async (t) => {
  using folder = new SharedFolder();
  const { fs, id, set, get, names, remove } = withAttributes(folder);
  if (!hasAcls(folder)) return t.comment('the file system has none');
  t.equal(set(ACL, USER_1000), 0);
  t.same(contentOf(get(ACL)), USER_1000);
  t.same(host(folder.at('file'), ACL), USER_1000);
  t.ok(names().includes(ACL));
  t.equal(statSync(folder.at('file')).mode & 0o777, 0o640, 'the group’s bits are the mask');
  fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o600 });
  t.equal(contentOf(get(ACL)).readUInt16LE(4 + 3 * 8 + 2), 0, 'as chmod sets it');
  t.equal(set(ACL, 'no ACL'), errno.EOPNOTSUPP, 'no version of it is known');
  chmodSync(folder.at('file'), 0o2755);
  t.equal(set(ACL, USER_1000), 0);
  t.equal(statSync(folder.at('file')).mode & 0o7000, 0o2000);
  t.equal(set(ACL, USER_1000, 0, fuse.FUSE_SETXATTR_ACL_KILL_SGID), 0);
  t.equal(statSync(folder.at('file')).mode & 0o7000, 0, 'a user outside the group clears it');
  t.equal(remove(ACL), 0);
  t.equal(get(ACL).error, errno.ENODATA);
});

t.test('a default ACL replaces the umask', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const shared = attributesOf(fs, fs.find('folder'));
  const wide = acl([1, 7], [4, 7], [16, 7], [32, 0]);
  if (!hasAcls(folder)) return t.comment('the file system has none');
  t.equal(shared.set(DEFAULT_ACL, wide), 0);
  const make = (parent: number, what: string): void => {
    const name = text(what);
    const umask = 0o077;
    const room = ENTRY.size + fuse.fuse_open_out.size;
    const made = [
      fs.request(
        fuse.FUSE_CREATE,
        parent,
        join(pack(fuse.fuse_create_in, { flags: O_RDWR, mode: 0o666, umask }), name),
        room,
      ),
      fs.request(
        fuse.FUSE_MKDIR,
        parent,
        join(pack(fuse.fuse_mkdir_in, { mode: 0o777, umask }), text(`${what}.d`)),
        room,
      ),
      fs.request(
        fuse.FUSE_MKNOD,
        parent,
        join(pack(fuse.fuse_mknod_in, { mode: 0o010666, umask }), text(`${what}.p`)),
        room,
      ),
    ];
    for (const { error } of made) t.equal(error, 0);
  };
  make(ROOT, 'masked');
  make(fs.find('folder'), 'inherits');
  const modes = (name: string): number[] =>
    ['', '.d', '.p'].map((end) => statSync(folder.at(`${name}${end}`)).mode & 0o777);
  t.same(modes('masked'), [0o600, 0o700, 0o600]);
  t.same(modes('folder/inherits'), [0o660, 0o770, 0o660]);
  const inner = attributesOf(fs, fs.find('folder', 'inherits.d'));
  t.same(contentOf(inner.get(DEFAULT_ACL)), wide);
});

t.test('ACLs that are not there, or that the guest does not heed', async (t) => {
  // Of a file system without any.
  using proc = new FsDriver('/proc');
  const version = attributesOf(proc, proc.find('version'));
  t.equal(version.get(ACL).error, errno.ENODATA, 'otherwise only the owner could reach it');
  t.equal(version.set(ACL, USER_1000), errno.EOPNOTSUPP);
  using folder = new SharedFolder();
  const fs = folder.driver({ flags: 0xffffffff - fuse.FUSE_POSIX_ACL });
  const file = attributesOf(fs, fs.find('file'));
  t.equal(file.set(ACL, USER_1000), errno.EOPNOTSUPP);
  t.equal(file.get(ACL).error, errno.EOPNOTSUPP);
});

t.test('files that cannot have them', async (t) => {
  using folder = new SharedFolder();
  symlinkSync('file', folder.at('link'));
  const fs = folder.driver();
  const mknod = join(pack(fuse.fuse_mknod_in, { mode: 0o010600 }), text('fifo'));
  fs.request(fuse.FUSE_MKNOD, ROOT, mknod, ENTRY.size);
  for (const name of ['link', 'fifo']) {
    const { set, get, names } = attributesOf(fs, fs.find(name));
    for (const key of ['user.a', CAPABILITY]) {
      t.equal(set(key, 'x'), errno.EPERM, name);
      t.equal(get(key).error, errno.ENODATA, name);
    }
    t.same(names(), []);
  }
  t.equal(host(folder.at('file'), 'user.a') === -errno.ENODATA, true, 'a link is not followed');
});

t.test('a read-only folder, and one of an unprivileged process', async (t) => {
  using folder = new SharedFolder();
  const { set, get, remove } = withAttributes(folder, { readOnly: true });
  t.equal(set('user.a', 'x'), errno.EROFS);
  t.equal(set(CAPABILITY, NET_RAW), errno.EROFS);
  t.equal(set(ACL, USER_1000), errno.EROFS);
  t.equal(remove('user.a'), errno.EROFS);
  t.equal(get(CAPABILITY).error, errno.ENODATA);
});
