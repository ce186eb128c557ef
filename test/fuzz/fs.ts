/**
 * Fuzz target: guests that ask a shared folder anything. Requests are proper ones of linux/fuse.h in
 * which nodes, handles, names, numbers, lengths and the layout over descriptors are wrong here and there.
 */
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import * as fuse from '../../src/abi/fuse.ts';
import type { Field } from '../../src/abi/struct.ts';
import { TemporaryFolder } from '../support/rigs/blk-driver.ts';
import {
  FsDriver,
  handleOf,
  join,
  openDescriptors,
  pack,
  text,
} from '../support/rigs/fs-driver.ts';
import type { FuzzSubject, FuzzTarget } from './target.ts';

type Layout = { readonly size: number };
const NONE: Layout = { size: 0 };
const SECRET = 'what no guest may see';
const ANSWER = fuse.fuse_out_header.size;
const ENTRY = fuse.fuse_entry_out.size;

/** Opcodes: their structs, and how many names follow. */
const REQUESTS: readonly (readonly [number, Layout, number])[] = [
  [fuse.FUSE_LOOKUP, NONE, 1],
  [fuse.FUSE_FORGET, fuse.fuse_forget_in, 0],
  [fuse.FUSE_GETATTR, fuse.fuse_getattr_in, 0],
  [fuse.FUSE_SETATTR, fuse.fuse_setattr_in, 0],
  [fuse.FUSE_READLINK, NONE, 0],
  [fuse.FUSE_SYMLINK, NONE, 2],
  [fuse.FUSE_MKNOD, fuse.fuse_mknod_in, 1],
  [fuse.FUSE_MKDIR, fuse.fuse_mkdir_in, 1],
  [fuse.FUSE_UNLINK, NONE, 1],
  [fuse.FUSE_RMDIR, NONE, 1],
  [fuse.FUSE_RENAME, fuse.fuse_rename_in, 2],
  [fuse.FUSE_LINK, fuse.fuse_link_in, 1],
  [fuse.FUSE_OPEN, fuse.fuse_open_in, 0],
  [fuse.FUSE_READ, fuse.fuse_read_in, 0],
  [fuse.FUSE_WRITE, fuse.fuse_write_in, 2],
  [fuse.FUSE_STATFS, NONE, 0],
  [fuse.FUSE_RELEASE, fuse.fuse_release_in, 0],
  [fuse.FUSE_FSYNC, fuse.fuse_fsync_in, 0],
  [fuse.FUSE_SETXATTR, fuse.fuse_setxattr_in, 2],
  [fuse.FUSE_GETXATTR, fuse.fuse_getxattr_in, 1],
  [fuse.FUSE_LISTXATTR, fuse.fuse_getxattr_in, 0],
  [fuse.FUSE_REMOVEXATTR, NONE, 1],
  [fuse.FUSE_FLUSH, fuse.fuse_flush_in, 0],
  [fuse.FUSE_OPENDIR, fuse.fuse_open_in, 0],
  [fuse.FUSE_READDIR, fuse.fuse_read_in, 0],
  [fuse.FUSE_RELEASEDIR, fuse.fuse_release_in, 0],
  [fuse.FUSE_FSYNCDIR, fuse.fuse_fsync_in, 0],
  [fuse.FUSE_CREATE, fuse.fuse_create_in, 1],
  [fuse.FUSE_INTERRUPT, NONE, 0],
  [fuse.FUSE_BATCH_FORGET, fuse.fuse_batch_forget_in, 2],
  [fuse.FUSE_FALLOCATE, fuse.fuse_fallocate_in, 0],
  [fuse.FUSE_READDIRPLUS, fuse.fuse_read_in, 0],
  [fuse.FUSE_RENAME2, fuse.fuse_rename2_in, 2],
  [fuse.FUSE_LSEEK, fuse.fuse_lseek_in, 0],
  [fuse.FUSE_COPY_FILE_RANGE, fuse.fuse_copy_file_range_in, 0],
  [fuse.FUSE_SYNCFS, fuse.fuse_syncfs_in, 0],
  [fuse.FUSE_TMPFILE, fuse.fuse_create_in, 1],
  // After these nothing is known any more.
  [fuse.FUSE_INIT, fuse.fuse_init_in, 0],
  [fuse.FUSE_DESTROY, NONE, 0],
];
const ENDS = 2;
const UNANSWERED = [fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT];
const ENTRIES = [fuse.FUSE_LOOKUP, fuse.FUSE_CREATE, fuse.FUSE_MKDIR, fuse.FUSE_TMPFILE];
const OPENS = [fuse.FUSE_OPEN, fuse.FUSE_OPENDIR];

/** A number in a struct. None between is good for filling the disk. */
const number = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(0n, 1n, 2n, 3n, 4n, 5n, 0x402n, 0o100644n, 4096n) },
  { weight: 4, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 20n }) },
  { weight: 1, arbitrary: fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }) },
);

const name = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('file', 'folder', 'a', 'b', 'out', 'up', 'inner') },
  { weight: 2, arbitrary: fc.constantFrom('..', '.', '/', '', '../secret', '/etc/passwd', 'a/b') },
  { weight: 1, arbitrary: fc.string({ maxLength: 300 }) },
);

const xattr = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('user.a', 'security.capability', 'trusted.a') },
  { weight: 2, arbitrary: fc.constantFrom('system.posix_acl_access', 'user.virtiofs.security.a') },
  { weight: 1, arbitrary: name },
);

const known = fc.oneof({ weight: 6, arbitrary: fc.nat(5) }, { weight: 1, arbitrary: fc.nat(30) });

const step = fc.record({
  request: fc.oneof(
    { weight: 100, arbitrary: fc.nat(REQUESTS.length - 1 - ENDS) },
    { weight: 1, arbitrary: fc.nat(REQUESTS.length - 1) },
  ),
  /** Instead of the opcode. */
  opcode: fc.oneof(
    { weight: 15, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.oneof(fc.nat(60), fc.nat(0xffff_ffff)) },
  ),
  /** Of the nodes and handles reported so far: each index counts on from it. */
  node: known,
  handle: known,
  other: known,
  numbers: fc.array(number, { minLength: 4, maxLength: 12 }),
  names: fc.array(name, { minLength: 2, maxLength: 2 }),
  xattr,
  /** The length of data that a request announces. */
  isTrue: fc.oneof({ weight: 9, arbitrary: fc.constant(true) }, fc.constant(false)),
  user: fc.constantFrom(0, 0, 0, 1000),
  /** Bytes more or less than there should be. */
  lie: fc.oneof({ weight: 20, arbitrary: fc.constant(0) }, fc.integer({ min: -90, max: 90 })),
  cut: fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 200 })),
  room: fc.oneof({ weight: 8, arbitrary: fc.constant(4096) }, fc.nat(200)),
});

const input = fc.record({
  readOnly: fc.oneof({ weight: 6, arbitrary: fc.constant(false) }, fc.constant(true)),
  steps: fc.array(step, { minLength: 1, maxLength: 40 }),
});
type Input = typeof input extends fc.Arbitrary<infer T> ? T : never;
type Step = Input['steps'][number];

/** Nodes and handles that the guest got: requests name those, stale ones, or invented ones. */
class Told {
  readonly #numbers: bigint[];

  constructor(...numbers: bigint[]) {
    this.#numbers = numbers;
  }

  add(value: bigint): void {
    this.#numbers.push(value);
  }

  at(index: number): bigint {
    return this.#numbers[index % (this.#numbers.length + 1)] ?? 4711n;
  }
}

const TELL_NODE = /^(nodeid|newdir|oldnodeid|nodeid_out)$/;
const TELL_HANDLE = /^fh/;

const OF_XATTRS = [fuse.FUSE_SETXATTR, fuse.FUSE_GETXATTR, fuse.FUSE_REMOVEXATTR];
const FLAGLESS = [...OF_XATTRS, fuse.FUSE_COPY_FILE_RANGE];
const WITH_DATA = [fuse.FUSE_SETXATTR, fuse.FUSE_WRITE];

function bodyOf(
  one: Step,
  [opcode, layout, count]: (typeof REQUESTS)[number],
  nodes: Told,
  handles: Told,
): Uint8Array {
  const names = one.names.slice(0, count).map(text);
  if (OF_XATTRS.includes(opcode)) names[0] = text(one.xattr);
  const bytes = join(...(opcode === fuse.FUSE_WRITE ? names : names.slice(1))).length;
  const { size: _, ...fields } = layout as Layout & Record<string, Field>;
  const values = Object.entries(fields).map(([key, { length }], i): [string, bigint] => {
    if (TELL_NODE.test(key)) return [key, nodes.at(one.other)];
    if (TELL_HANDLE.test(key)) return [key, handles.at(key === 'fh_out' ? one.other : one.handle)];
    if (key === 'size_' && one.isTrue && WITH_DATA.includes(opcode)) return [key, BigInt(bytes)];
    if (key === 'flags' && one.isTrue && FLAGLESS.includes(opcode)) return [key, 0n];
    const value = one.numbers[i % one.numbers.length] ?? 0n;
    return [key, BigInt.asUintN(8 * length, value)];
  });
  return join(pack(layout, Object.fromEntries(values)), ...names);
}

/** Cuts bytes, so many at a time; whole by 0. */
function pieces(bytes: Uint8Array, each: number): Uint8Array[] {
  if (each === 0) return [bytes];
  const count = Math.min(Math.ceil(bytes.length / each), 20);
  return Array.from({ length: count }, (_, i) =>
    bytes.subarray(i * each, i === count - 1 ? bytes.length : (i + 1) * each),
  );
}

/** Sends a request, and looks at the answer. */
function ask(fs: FsDriver, one: Step, nodes: Told, handles: Told): void {
  const usual = REQUESTS[one.request] as (typeof REQUESTS)[number];
  const opcode = one.opcode ?? usual[0];
  const body = bodyOf(one, usual, nodes, handles);
  [fs.uid, fs.gid] = [one.user, one.user];
  const header = fs.header(opcode, nodes.at(one.node), body.length + one.lie);
  const done = fs.send(pieces(join(header, body), one.cut), [ANSWER + one.room]);
  if (UNANSWERED.includes(opcode)) {
    if (done.written !== 0) throw new Error(`opcode ${opcode} was answered`);
    return;
  }
  const { data, written } = done;
  const answer = new DataView(data.buffer, data.byteOffset, data.length);
  const error = answer.getInt32(4, true);
  const unique = new DataView(header.buffer, header.byteOffset).getBigUint64(8, true);
  const isWell =
    answer.getUint32(0, true) === written &&
    written <= ANSWER + one.room &&
    answer.getBigUint64(8, true) === unique &&
    (error === 0 || (error < 0 && error > -4096 && written === ANSWER));
  if (!isWell) throw new Error(`opcode ${opcode}: a wrong answer of ${written} bytes, ${error}`);
  if (Buffer.from(data).includes(SECRET)) throw new Error(`opcode ${opcode} gave the secret away`);
  if (error !== 0) return;
  if (ENTRIES.includes(opcode)) nodes.add(answer.getBigUint64(ANSWER, true));
  if (OPENS.includes(opcode)) handles.add(answer.getBigUint64(ANSWER, true));
  if (opcode === fuse.FUSE_CREATE) handles.add(answer.getBigUint64(ANSWER + ENTRY, true));
}

/** What a well-behaved guest gets: the files, open. */
function begin(fs: FsDriver, nodes: Told, handles: Told): void {
  const ids = [fs.find('file'), fs.find('folder'), fs.find('folder', 'inner'), fs.find('out')];
  for (const id of ids) nodes.add(BigInt(id));
  const [file = 0, folder = 0] = ids;
  const openFolder = (id: number): number =>
    handleOf(fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in), 16));
  const inner = ids[2] ?? 0;
  const files = [fs.open(file, 2), fs.open(inner, 2), fs.open(file, 0)].filter(
    ({ error }) => error === 0,
  );
  for (const fh of [...files.map((opened) => handleOf(opened)), openFolder(folder)]) {
    handles.add(BigInt(fh));
  }
  handles.add(BigInt(openFolder(fuse.FUSE_ROOT_ID)));
}

class Subject implements FuzzSubject<Input> {
  // In memory: SYNCFS writes nothing to a disk there.
  readonly #folder = new TemporaryFolder(true);
  readonly #outside = path.join(this.#folder.path, 'outside');
  readonly #shared = path.join(this.#outside, 'shared');
  readonly #secret = path.join(this.#outside, 'secret');
  readonly #drivers: readonly FsDriver[];
  readonly #before: string;
  readonly #descriptors: number;

  constructor() {
    mkdirSync(this.#shared, { recursive: true });
    writeFileSync(this.#secret, SECRET);
    const options = { submounts: true, mknod: true, maxFiles: 64 } as const;
    this.#drivers = [
      new FsDriver(this.#shared, options),
      new FsDriver(this.#shared, { ...options, readOnly: true, submounts: false }),
    ];
    this.#before = this.#surroundings();
    this.#descriptors = openDescriptors();
  }

  run({ readOnly, steps }: Input): Promise<void> {
    this.#refill();
    const inside = readOnly ? this.#tree() : '';
    const fs = this.#drivers[readOnly ? 1 : 0] as FsDriver;
    const [nodes, handles] = [new Told(1n), new Told()];
    fs.init();
    begin(fs, nodes, handles);
    for (const one of steps) ask(fs, one, nodes, handles);
    [fs.uid, fs.gid] = [0, 0];
    fs.request(fuse.FUSE_DESTROY, 0, new Uint8Array(0));
    const open = openDescriptors();
    if (open !== this.#descriptors) throw new Error(`${open} descriptors are open`);
    if (readOnly && this.#tree() !== inside) throw new Error('a read-only folder was changed');
    const now = this.#surroundings();
    if (now !== this.#before) throw new Error(`outside the folder: ${now}`);
    return Promise.resolve();
  }

  #refill(): void {
    chmodSync(this.#shared, 0o755);
    for (const entry of readdirSync(this.#shared)) {
      rmSync(path.join(this.#shared, entry), { recursive: true, force: true });
    }
    const at = (entry: string): string => path.join(this.#shared, entry);
    writeFileSync(at('file'), 'content of the file');
    mkdirSync(at('folder'));
    writeFileSync(at('folder/inner'), 'inner');
    symlinkSync('../secret', at('out'));
    symlinkSync('..', at('up'));
  }

  #tree(): string {
    const { mode, size } = statSync(path.join(this.#shared, 'file'));
    const names = ['', 'folder'].map((name) => readdirSync(path.join(this.#shared, name)).sort());
    return JSON.stringify([names, mode, size]);
  }

  #surroundings(): string {
    const { mode, uid, nlink, mtimeMs } = statSync(this.#secret);
    const names = readdirSync(this.#outside).sort();
    return JSON.stringify([names, mode, uid, nlink, mtimeMs, readFileSync(this.#secret, 'utf8')]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const driver of this.#drivers) driver[Symbol.dispose]();
    this.#folder[Symbol.dispose]();
    return Promise.resolve();
  }
}

export const sharedFolder: FuzzTarget<Input> = {
  name: 'fs',
  input,
  open: () => Promise.resolve(new Subject()),
};
