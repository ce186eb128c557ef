/** The file system device, operation by operation (virtio 1.3 §5.11, linux/fuse.h). */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import { TemporaryFolder } from '../../../support/blk-driver.ts';
import {
  attribute,
  createdHandle,
  FsDriver,
  type FsDriverOptions,
  handleOf,
  nodeOf,
  openDescriptors,
} from '../../../support/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const folders: TemporaryFolder[] = [];
t.teardown(() => {
  for (const folder of folders) folder[Symbol.dispose]();
});

/** A shared folder with a few files in it. */
function open(options: FsDriverOptions = {}): { at: (name: string) => string; fs: FsDriver } {
  const folder = new TemporaryFolder();
  folders.push(folder);
  const at = (name: string): string => path.join(folder.path, name);
  writeFileSync(at('file'), 'content of the file');
  mkdirSync(at('folder'));
  writeFileSync(at('folder/inner'), 'inner');
  return { at, fs: new FsDriver(folder.path, options) };
}

t.test('LOOKUP, OPEN, READ, RELEASE of a file', async (t) => {
  const { fs } = open();
  const found = fs.lookup(ROOT, 'file');
  t.equal(found.error, 0);
  t.equal(attribute(found, 'size_', fuse.fuse_entry_out), 19);
  const handle = handleOf(fs.open(nodeOf(found)));
  t.equal(Buffer.from(fs.read(handle, 0, 4096).bytes).toString(), 'content of the file');
  t.equal(Buffer.from(fs.read(handle, 11, 3).bytes).toString(), 'the');
  t.equal(fs.read(handle, 19, 100).written, 16, 'nothing behind the end');
  t.equal(fs.release(handle).error, 0);
  t.equal(fs.read(handle, 0, 1).error, errno.EBADF);
  fs[Symbol.dispose]();
});

t.test('CREATE and WRITE', async (t) => {
  const { at, fs } = open();
  const made = fs.create(ROOT, 'new', 2, 0o640);
  t.equal(made.error, 0);
  const handle = createdHandle(made);
  t.equal(fs.write(handle, 3, Buffer.from('abc')).data.getUint32(0, true), 3);
  t.same(readFileSync(at('new')), Buffer.from('\0\0\0abc'));
  t.equal(statSync(at('new')).mode & 0o777, 0o640);
  fs[Symbol.dispose]();
});

t.test('every descriptor is given back', async (t) => {
  const { fs } = open();
  const before = openDescriptors();
  const inner = fs.find('folder', 'inner');
  handleOf(fs.open(inner));
  t.ok(openDescriptors() > before);
  fs.rig.stop();
  fs.device.reset?.();
  t.equal(openDescriptors(), before);
  fs[Symbol.dispose]();
});
