/** What is mounted below a shared folder: shared only on request, and never mistaken for one file system. */
import { spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import {
  O_RDWR,
  O_TRUNC,
  S_IFDIR,
  S_IFREG,
  STATX_LENGTH,
  STATX_MNT_ID,
  statx,
} from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import * as sys from '../../../../src/host/syscall.ts';
import { FileStat } from '../../../../src/virtio/device/fs/attributes.ts';
import { DescriptorTable } from '../../../../src/virtio/device/fs/descriptor-table.ts';
import { InodeTable } from '../../../../src/virtio/device/fs/inode-table.ts';
import {
  attribute,
  direntsOf,
  type FsDriver,
  type FuseResult,
  handleOf,
  join,
  nodeOf,
  openDescriptors,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const NONE = new Uint8Array(0);

function run(command: string, ...argv: readonly string[]): string | undefined {
  const { status, stderr } = spawnSync(command, argv, { encoding: 'utf8' });
  return status === 0 ? undefined : String(stderr).trim() || `${command} failed`;
}

/** A shared folder, and what is mounted in it. */
class MountedFolder extends SharedFolder {
  readonly #mounted: string[] = [];

  /** Mounts a tmpfs of its own on a new folder. */
  tmpfs(name: string): void {
    mkdirSync(this.at(name));
    this.#mount(name, '-t', 'tmpfs', 'test');
  }

  bind(from: string, name: string): void {
    this.#mount(name, '--bind', from);
  }

  #mount(name: string, ...argv: string[]): void {
    const failed = run('mount', ...argv, this.at(name));
    if (failed !== undefined) throw new Error(failed);
    this.#mounted.unshift(this.at(name));
  }

  override [Symbol.dispose](): void {
    for (const path of this.#mounted) run('umount', '-l', path);
    super[Symbol.dispose]();
  }
}

function cannotMount(): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  try {
    using folder = new MountedFolder();
    folder.tmpfs('try');
    return false;
  } catch (error) {
    return `cannot mount: ${error}`;
  }
}

const skip = cannotMount();

function readdir(fs: FsDriver, id: number, opcode: number): FuseResult {
  const opened = fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in), 16);
  const body = pack(fuse.fuse_read_in, { fh: handleOf(opened), size_: 4096 });
  return fs.request(opcode, id, body, 4096);
}

const flagsOf = (entry: FuseResult): number => attribute(entry, 'flags', ENTRY);

t.test('what is mounted there is not shared: an empty folder is', { skip }, async (t) => {
  using folder = new MountedFolder();
  folder.tmpfs('own');
  writeFileSync(folder.at('own/secret'), 'secret');
  mkdirSync(folder.at('proc'));
  folder.bind('/proc', 'proc');
  mkdirSync(folder.at('same'));
  folder.bind(folder.at('folder'), 'same');
  const fs = folder.driver();
  const before = openDescriptors();
  for (const name of ['own', 'proc', 'same']) {
    const found = fs.lookup(ROOT, name);
    const id = nodeOf(found);
    t.equal(attribute(found, 'mode', ENTRY), S_IFDIR | 0o555, name);
    t.not(attribute(found, 'ino', ENTRY), statSync(folder.at(name)).ino, 'nor reported');
    t.equal(flagsOf(found), 0);
    t.equal(nodeOf(fs.lookup(ROOT, name)), id, 'the same each time');
    t.equal(attribute(fs.getattr(id), 'ino'), attribute(found, 'ino', ENTRY));
    for (const inner of ['secret', 'version', 'self', 'inner']) {
      t.equal(fs.lookup(id, inner).error, errno.ENOENT, `${name}/${inner}`);
    }
    t.equal(fs.lookup(id, '..').error, errno.EINVAL);
    for (const opcode of [fuse.FUSE_READDIR, fuse.FUSE_READDIRPLUS]) {
      const listed = readdir(fs, id, opcode);
      t.same([listed.error, listed.bytes.length], [0, 0]);
    }
    const rename = join(pack(fuse.fuse_rename_in, { newdir: id }), text('file'), text('x'));
    const link = join(pack(fuse.fuse_link_in, { oldnodeid: fs.find('file') }), text('x'));
    const xattr = join(pack(fuse.fuse_setxattr_in, { size_: 0 }), text('user.a'));
    const changes: readonly (readonly [string, FuseResult])[] = [
      ['CREATE', fs.create(id, 'x')],
      ['MKDIR', fs.request(fuse.FUSE_MKDIR, id, join(pack(fuse.fuse_mkdir_in), text('x')), 128)],
      ['UNLINK', fs.request(fuse.FUSE_UNLINK, id, text('secret'))],
      ['RENAME', fs.request(fuse.FUSE_RENAME, ROOT, rename)],
      ['LINK', fs.request(fuse.FUSE_LINK, id, link, 128)],
      ['SETATTR', fs.setattr(id, { valid: fuse.FATTR_MODE, mode: 0o777 })],
      ['SETXATTR', fs.request(fuse.FUSE_SETXATTR, id, xattr)],
      ['SYNCFS', fs.request(fuse.FUSE_SYNCFS, id, pack(fuse.fuse_syncfs_in))],
    ];
    for (const [what, { error }] of changes) t.equal(error, errno.EXDEV, `${name}: ${what}`);
    t.equal(fs.request(fuse.FUSE_STATFS, id, NONE, fuse.fuse_kstatfs.size).error, 0, 'for df');
    t.equal(fs.request(fuse.FUSE_RMDIR, ROOT, text(name)).error, errno.EBUSY);
  }
  const inos = ['own', 'proc', 'same'].map((name) =>
    attribute(fs.lookup(ROOT, name), 'ino', ENTRY),
  );
  t.equal(new Set(inos).size, 3);
  const entries = direntsOf(readdir(fs, ROOT, fuse.FUSE_READDIRPLUS), true);
  t.equal(entries.find(({ name }) => name === 'own')?.nodeid, fs.find('own'));
  t.equal(openDescriptors() - before, 3, 'of file, folder and the open folder alone');
  t.equal(run('umount', folder.at('own')), undefined, 'the guest does not keep it busy');
  t.equal(attribute(fs.lookup(ROOT, 'own'), 'mode', ENTRY) & 0o777, 0o755, 'the folder itself');
});

t.test('a file that something is mounted on cannot be opened', { skip }, async (t) => {
  using folder = new MountedFolder();
  writeFileSync(folder.outside('secret'), 'secret');
  writeFileSync(folder.at('hosts'), 'below');
  folder.bind(folder.outside('secret'), 'hosts');
  writeFileSync(folder.at('null'), '');
  folder.bind('/dev/null', 'null');
  const fs = folder.driver();
  for (const name of ['hosts', 'null']) {
    const found = fs.lookup(ROOT, name);
    t.same([attribute(found, 'mode', ENTRY), attribute(found, 'size_', ENTRY)], [S_IFREG, 0]);
    const id = nodeOf(found);
    t.equal(fs.open(id).error, errno.EXDEV, name);
    t.equal(fs.open(id, O_RDWR | O_TRUNC).error, errno.EXDEV);
    t.equal(fs.create(ROOT, name, O_RDWR).error, errno.EXDEV);
    t.equal(fs.setattr(id, { valid: fuse.FATTR_SIZE }).error, errno.EXDEV);
    t.equal(fs.lookup(id, 'x').error, errno.ENOTDIR);
    const link = join(pack(fuse.fuse_link_in, { oldnodeid: id }), text('x'));
    t.equal(fs.request(fuse.FUSE_LINK, ROOT, link, 128).error, errno.EXDEV);
    t.equal(fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in), 16).error, errno.ENOTDIR);
    fs.forget(id, 9);
    t.equal(fs.getattr(id).error, errno.ESTALE);
  }
  t.equal(readFileSync(folder.outside('secret'), 'utf8'), 'secret');
});

t.test('a mount that comes while the guest holds the folder', { skip }, async (t) => {
  using folder = new MountedFolder();
  const fs = folder.driver();
  mkdirSync(folder.at('later'));
  writeFileSync(folder.at('later/below'), '');
  const held = fs.find('later');
  folder.bind(folder.outside('.'), 'later');
  t.equal(fs.lookup(held, 'below').error, 0, 'it holds what it held');
  t.equal(fs.lookup(held, 'shared').error, errno.ENOENT);
  const now = fs.find('later');
  t.not(now, held);
  t.equal(fs.lookup(now, 'shared').error, errno.ENOENT);
});

t.test('submounts: two of the same numbers are two file systems', { skip }, async (t) => {
  using folder = new MountedFolder();
  for (const name of ['a', 'b']) {
    folder.tmpfs(name);
    mkdirSync(folder.at(`${name}/sub`));
    writeFileSync(folder.at(`${name}/sub/one`), `of ${name}`);
    linkSync(folder.at(`${name}/sub/one`), folder.at(`${name}/two`));
  }
  const hostInos = ['a', 'b'].map((name) => statSync(folder.at(`${name}/two`)).ino);
  t.equal(hostInos[0], hostInos[1], 'a guest could not distinguish them');
  const fs = folder.driver({ submounts: true });
  const nodes: number[] = [];
  for (const name of ['a', 'b']) {
    const found = fs.lookup(ROOT, name);
    t.equal(flagsOf(found), fuse.FUSE_ATTR_SUBMOUNT, name);
    t.equal(attribute(found, 'ino', ENTRY), statSync(folder.at(name)).ino);
    t.equal(flagsOf(fs.lookup(nodeOf(found), 'sub')), 0, 'what lies in it is on the same');
    const two = fs.lookup(nodeOf(found), 'two');
    t.equal(nodeOf(two), fs.find(name, 'sub', 'one'), 'hard links are one file');
    t.equal(attribute(two, 'ino', ENTRY), hostInos[0]);
    const read = fs.read(handleOf(fs.open(nodeOf(two))), 0, 100);
    t.equal(Buffer.from(read.bytes).toString(), `of ${name}`);
    nodes.push(nodeOf(two), nodeOf(found), fs.find(name, 'sub'));
  }
  t.equal(new Set(nodes).size, 6);
  t.equal(flagsOf(fs.lookup(ROOT, 'folder')), 0);
  const [, a = 0, , , b = 0] = nodes;
  const plus = readdir(fs, ROOT, fuse.FUSE_READDIRPLUS);
  const entries = direntsOf(plus, true);
  t.equal(entries.find(({ name }) => name === 'a')?.nodeid, a);
  const rename = join(pack(fuse.fuse_rename_in, { newdir: b }), text('two'), text('x'));
  t.equal(fs.request(fuse.FUSE_RENAME, a, rename).error, errno.EXDEV);
  const link = join(pack(fuse.fuse_link_in, { oldnodeid: nodes[0] ?? 0 }), text('x'));
  t.equal(fs.request(fuse.FUSE_LINK, b, link, 128).error, errno.EXDEV);
  t.equal(flagsOf(fs.create(b, 'new')), 0);
  t.equal(fs.request(fuse.FUSE_SYNCFS, b, pack(fuse.fuse_syncfs_in)).error, 0);
  t.equal(fs.request(fuse.FUSE_RMDIR, ROOT, text('a')).error, errno.EBUSY);
});

t.test('submounts: a folder or file bound to another place', { skip }, async (t) => {
  using folder = new MountedFolder();
  mkdirSync(folder.at('bound'));
  folder.bind(folder.at('folder'), 'bound');
  folder.tmpfs('other');
  writeFileSync(folder.at('other/x'), 'other');
  writeFileSync(folder.at('single'), '');
  folder.bind(folder.at('other/x'), 'single');
  const fs = folder.driver({ submounts: true });
  const [bound, inner] = [fs.lookup(ROOT, 'bound'), fs.find('bound', 'inner')];
  t.equal(flagsOf(bound), fuse.FUSE_ATTR_SUBMOUNT);
  t.not(inner, fs.find('folder', 'inner'), 'what is one file here is on two mounts there');
  const single = fs.lookup(ROOT, 'single');
  t.equal(flagsOf(single), 0, 'a file is no mount point to the guest');
  const { ino } = statSync(folder.at('single'));
  const reported = attribute(single, 'ino', ENTRY);
  t.not(reported, ino, 'a file of the shared folder may have that number');
  t.ok(reported > 2 ** 53);
  t.equal(attribute(fs.getattr(nodeOf(single)), 'ino'), reported);
  const read = fs.read(handleOf(fs.open(nodeOf(single))), 0, 100);
  t.equal(Buffer.from(read.bytes).toString(), 'other');
});

t.test('a guest that cannot show submounts gets to see none', { skip }, async (t) => {
  using folder = new MountedFolder();
  folder.tmpfs('a');
  writeFileSync(folder.at('a/x'), '');
  const fs = folder.driver({ submounts: true, flags: 0xffffffff - fuse.FUSE_SUBMOUNTS });
  const a = fs.find('a');
  t.equal(fs.lookup(a, 'x').error, errno.ENOENT);
  fs.init();
  t.equal(fs.getattr(a).error, errno.ESTALE);
  t.equal(fs.lookup(fs.find('a'), 'x').error, 0);
});

t.test('a device within a mount, as a btrfs subvolume or a layer of overlayfs', async (t) => {
  const stat = new FileStat(STATX_LENGTH);
  const found = (mount: number, device: number, ino: number, mode: number): FileStat => {
    stat.view.setUint32(statx.stx_mask.offset, STATX_MNT_ID, true);
    stat.view.setUint32(statx.stx_mnt_id.offset, mount, true);
    stat.view.setUint32(statx.stx_dev_minor.offset, device, true);
    stat.view.setUint32(statx.stx_ino.offset, ino, true);
    stat.view.setUint16(statx.stx_mode.offset, mode, true);
    return stat;
  };
  const fd = (): number => sys.open('/', 0);
  const descriptors = new DescriptorTable(16);
  const table = new InodeTable(descriptors, -1, found(1, 1, 256, S_IFDIR), 16);
  const made = (mount: number, device: number, ino: number, mode: number) => {
    const inode = table.lookUp(fd(), found(mount, device, ino, mode), table.root);
    if (typeof inode === 'number') throw new Error(`errno ${inode}`);
    return inode;
  };
  const plain = made(1, 1, 257, S_IFREG);
  const subvolume = made(1, 2, 256, S_IFDIR);
  const layer = made(1, 3, 257, S_IFREG);
  const other = made(1, 4, 257, S_IFREG);
  t.same([plain.isSubmount, plain.numberBits], [false, 0]);
  t.same([subvolume.isSubmount, subvolume.numberBits], [true, 0]);
  t.notOk(layer.isSubmount);
  t.equal(new Set([plain, layer, other].map(({ numberBits }) => numberBits)).size, 3);
  t.equal(made(1, 3, 257, S_IFREG), layer);
  table.clear();
  t.equal(made(1, 3, 257, S_IFREG).numberBits, layer.numberBits, 'it has it for good');
  descriptors.closeAll();
});
