/**
 * Writer of initramfs archives: cpio "newc" (Documentation/driver-api/early-userspace/
 * buffer-format.rst). The same entries give the same bytes: sorted, owned by root, no times.
 */
import { InternalError } from '../host/errors.ts';

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;

interface Entry {
  readonly mode: number;
  readonly data: Buffer;
  readonly major: number;
  readonly minor: number;
}

/** Gathers files, then writes them all at once. Paths are relative to the root, without `/` in front. */
export class CpioArchive {
  readonly #entries = new Map<string, Entry>();

  /** Adds a directory and its parents. */
  directory(path: string, permissions = 0o755): void {
    this.#add(path, S_IFDIR | permissions, Buffer.alloc(0));
  }

  /** Adds a regular file; its directories come by themselves. */
  file(path: string, data: Uint8Array | string, permissions = 0o644): void {
    this.#add(path, S_IFREG | permissions, Buffer.from(data));
  }

  symlink(path: string, target: string): void {
    this.#add(path, S_IFLNK | 0o777, Buffer.from(target));
  }

  characterDevice(path: string, major: number, minor: number, permissions = 0o600): void {
    this.#add(path, S_IFCHR | permissions, Buffer.alloc(0), major, minor);
  }

  /** Whether something was added at the path. */
  has(path: string): boolean {
    return this.#entries.has(path);
  }

  /** The archive's bytes. */
  bytes(): Buffer {
    const parts: Buffer[] = [];
    let inode = 0;
    const paths = [...this.#entries.keys()].sort((a, b) =>
      Buffer.compare(Buffer.from(a), Buffer.from(b)),
    );
    for (const path of paths) {
      inode += 1;
      parts.push(...member(path, this.#entries.get(path) as Entry, inode));
    }
    const end: Entry = { mode: 0, data: Buffer.alloc(0), major: 0, minor: 0 };
    parts.push(...member('TRAILER!!!', end, 0));
    return Buffer.concat(parts);
  }

  #add(path: string, mode: number, data: Buffer, major = 0, minor = 0): void {
    if (path === '' || path.startsWith('/') || path.split('/').includes('..')) {
      throw new InternalError(`cpio: ${JSON.stringify(path)} is not a path below the root`);
    }
    const slash = path.lastIndexOf('/');
    if (slash > 0 && !this.#entries.has(path.slice(0, slash))) this.directory(path.slice(0, slash));
    this.#entries.set(path, { mode, data, major, minor });
  }
}

/** Header and name, then data, each padded to 4 bytes. */
function member(path: string, entry: Entry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`);
  const fields = [
    inode,
    entry.mode,
    0, // uid
    0, // gid
    1, // nlink
    0, // mtime
    entry.data.length,
    0, // devmajor
    0, // devminor
    entry.major,
    entry.minor,
    name.length,
    0, // check, unused by newc
  ];
  const hex = fields.map((value) => value.toString(16).padStart(8, '0').toUpperCase());
  const header = Buffer.from(`070701${hex.join('')}`, 'latin1');
  const headed = Buffer.concat([header, name]);
  return [headed, padding(headed.length), entry.data, padding(entry.data.length)];
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
