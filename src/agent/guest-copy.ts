/**
 * Files and folders on their way between host and guest, as a stream of records (guests/agent/files.c): modes,
 * contents and symbolic links; not owners, times, sockets, pipes and devices. Names and sizes from the guest are
 * checked: nothing is written outside the target, or through a link in it.
 */
import { constants } from 'node:fs';
import {
  chmod,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  stat,
  symlink,
  unlink,
} from 'node:fs/promises';
import { PeerError, UsageError } from '../host/errors.ts';
import { checkedName } from './guest-stats.ts';
import { protocolError } from './protocol.ts';

/** u8 type, u32 mode, u32 length of the name, u64 size of the data; then the name, and the data. */
const HEAD = 17;
const [FOLDER, UP, FILE, LINK, END] = [...'DUFLE'].map((letter) => letter.charCodeAt(0));
const NAME_MAX = 255;
const TARGET_MAX = 4096;
const DEPTH_MAX = 512;
/** What an entry counts for, whatever its size. */
const ENTRY_COST = 4096;
/** Without set-user-ID, set-group-ID and sticky: what a guest says is nobody's privilege here. */
const MODE = 0o777;

function record(
  type: number | undefined,
  mode = 0,
  name: Uint8Array = Buffer.alloc(0),
  size = 0,
): Buffer {
  const head = Buffer.alloc(HEAD);
  head.writeUInt8(type ?? 0, 0);
  head.writeUInt32LE(mode & 0o7777, 1);
  head.writeUInt32LE(name.length, 5);
  head.writeBigUInt64LE(BigInt(size), 9);
  return Buffer.concat([head, name]);
}

const SLASH = Buffer.from('/');
const within = (folder: Buffer, name: Buffer): Buffer => Buffer.concat([folder, SLASH, name]);

/** The records of a file or folder of the host. */
export async function* pack(path: string): AsyncGenerator<Buffer> {
  yield* packOne(Buffer.from(path), Buffer.alloc(0));
  yield record(END);
}

async function* packOne(path: Buffer, name: Buffer): AsyncGenerator<Buffer> {
  const status = await lstat(path);
  if (status.isDirectory()) {
    yield record(FOLDER, status.mode, name);
    const entries = await readdir(path, { encoding: 'buffer' });
    for (const entry of entries.sort(Buffer.compare)) yield* packOne(within(path, entry), entry);
    yield record(UP);
  } else if (status.isSymbolicLink()) {
    const target = await readlink(path, { encoding: 'buffer' });
    yield record(LINK, MODE, name, target.length);
    yield target;
  } else if (status.isFile()) {
    yield* packFile(path, name);
  }
}

async function* packFile(path: Buffer, name: Buffer): AsyncGenerator<Buffer> {
  await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  const { mode, size } = await file.stat();
  yield record(FILE, mode, name, size);
  let left = size;
  while (left > 0) {
    const chunk = Buffer.allocUnsafe(Math.min(left, 64 * 1024));
    const { bytesRead } = await file.read(chunk, 0, chunk.length);
    if (bytesRead === 0) {
      throw new UsageError('E_COPY', `${path} was truncated while it was copied`, 'copy it again');
    }
    left -= bytesRead;
    yield chunk.subarray(0, bytesRead);
  }
}

/** A stream by counted pieces. */
class Pieces {
  readonly #chunks: AsyncIterator<Buffer>;
  #left: Buffer = Buffer.alloc(0);

  constructor(stream: AsyncIterable<Buffer>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** Exactly that many, which must be few. @returns undefined at the stream's end */
  async take(length: number): Promise<Buffer | undefined> {
    while (this.#left.length < length) {
      const { done, value } = await this.#chunks.next();
      if (done) return undefined;
      this.#left = Buffer.concat([this.#left, value]);
    }
    const taken = this.#left.subarray(0, length);
    this.#left = this.#left.subarray(length);
    return taken;
  }

  /** That many, piece by piece; fewer when the stream ends. */
  async *pass(length: number): AsyncGenerator<Buffer> {
    for (let left = length; left > 0; ) {
      if (this.#left.length === 0) {
        const { done, value } = await this.#chunks.next();
        if (done) return;
        this.#left = value;
      }
      const piece = this.#left.subarray(0, left);
      this.#left = this.#left.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }
}

/**
 * Writes the records of a guest to a path of the host; existing files are replaced, folders are joined.
 * @param most bytes, an entry as 4 KiB and its contents
 * @returns false when the stream ended before its last record
 * @throws PeerError when they are not records, or more than that; what Node throws when the host fails
 */
export async function unpack(
  stream: AsyncIterable<Buffer>,
  path: string,
  most: number,
): Promise<boolean> {
  const pieces = new Pieces(stream);
  const root = Buffer.from(path);
  const folders: { path: Buffer; mode: number }[] = [];
  let begun = false;
  let budget = most;
  for (;;) {
    const head = await pieces.take(HEAD);
    if (head === undefined) return false;
    const type = head.readUInt8(0);
    const mode = head.readUInt32LE(1) & MODE;
    const nameLength = head.readUInt32LE(5);
    const size = Number(head.readBigUInt64LE(9));
    if (type === UP) {
      const folder = folders.pop();
      if (folder === undefined) throw protocolError('the end of a folder');
      await chmod(folder.path, folder.mode);
      continue;
    }
    const parent = folders.at(-1);
    if (type === END && parent === undefined) return true;
    if (nameLength > NAME_MAX) throw protocolError('the name of a file');
    const name = await pieces.take(nameLength);
    if (name === undefined) return false;
    // Only what has no parent is the target itself, and that is one.
    if (
      parent === undefined ? begun || nameLength > 0 : checkedName(name.toString('latin1')) === ''
    ) {
      throw protocolError('a copied file');
    }
    begun = true;
    budget -= ENTRY_COST + size;
    if (!(budget >= 0)) {
      throw new PeerError(
        'E_MAX_BYTES',
        `the guest sends more than ${most} bytes for ${path}`,
        'raise maxBytes',
      );
    }
    const place = parent === undefined ? root : within(parent.path, name);
    if (type === FOLDER && folders.length < DEPTH_MAX) {
      await makeFolder(place, parent === undefined);
      folders.push({ path: place, mode });
    } else if (type === FILE) {
      if (!(await writeOne(place, mode, pieces, size, parent === undefined))) return false;
    } else if (type === LINK && size <= TARGET_MAX) {
      const target = await pieces.take(size);
      if (target === undefined) return false;
      await remove(place);
      await symlink(target, place);
    } else {
      throw protocolError('a copied file');
    }
  }
}

/** The caller's own path may be a link to a folder; nothing in it may. */
async function makeFolder(path: Buffer, isRoot: boolean): Promise<void> {
  try {
    // Only ours until it is complete.
    await mkdir(path, 0o700);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw error;
    const status = await (isRoot ? stat(path) : lstat(path));
    if (!status.isDirectory()) throw error;
  }
}

async function writeOne(
  path: Buffer,
  mode: number,
  pieces: Pieces,
  size: number,
  isRoot: boolean,
): Promise<boolean> {
  if (!isRoot) await remove(path);
  await using file = await open(path, isRoot ? 'w' : 'wx', 0o600);
  let written = 0;
  for await (const piece of pieces.pass(size)) {
    await file.writeFile(piece);
    written += piece.length;
  }
  if (written < size) return false;
  // A device that the caller named keeps its mode.
  if ((await file.stat()).isFile()) await file.chmod(mode);
  return true;
}

async function remove(path: Buffer): Promise<void> {
  await unlink(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}
