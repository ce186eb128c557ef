/** What the guest says of its files, as node:fs has it. */
import { constants } from 'node:fs';
import { protocolError } from './protocol.ts';

/** The kinds of files, by the bits of a mode that say so. */
abstract class FileKind {
  protected abstract get kind(): number;

  isFile(): boolean {
    return this.kind === constants.S_IFREG;
  }

  isDirectory(): boolean {
    return this.kind === constants.S_IFDIR;
  }

  isSymbolicLink(): boolean {
    return this.kind === constants.S_IFLNK;
  }

  isBlockDevice(): boolean {
    return this.kind === constants.S_IFBLK;
  }

  isCharacterDevice(): boolean {
    return this.kind === constants.S_IFCHR;
  }

  isFIFO(): boolean {
    return this.kind === constants.S_IFIFO;
  }

  isSocket(): boolean {
    return this.kind === constants.S_IFSOCK;
  }
}

/** 13 numbers of 64 bits, little-endian (guests/agent/files.c). */
const STATUS_SIZE = 13 * 8;

/** The status of a file of the guest, as fs.Stats. */
export class GuestStats extends FileKind {
  readonly dev: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly ino: number;
  /** In bytes. */
  readonly size: number;
  readonly blksize: number;
  /** Of 512 bytes. */
  readonly blocks: number;
  /** Milliseconds since the epoch. */
  readonly atimeMs: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;

  /** @throws PeerError when it is not a status */
  constructor(bytes: Buffer) {
    super();
    if (bytes.length !== STATUS_SIZE) throw protocolError('the status of a file');
    const field = (index: number): number => Number(bytes.readBigUInt64LE(index * 8));
    // As Node adds them up: a double has not all digits of a time in nanoseconds.
    const time = (index: number): number => {
      const ns = bytes.readBigInt64LE(index * 8);
      return Number(ns / 1_000_000_000n) * 1000 + Number(ns % 1_000_000_000n) / 1e6;
    };
    this.dev = field(0);
    this.mode = field(1);
    this.nlink = field(2);
    this.uid = field(3);
    this.gid = field(4);
    this.rdev = field(5);
    this.ino = field(6);
    this.size = field(7);
    this.blksize = field(8);
    this.blocks = field(9);
    this.atimeMs = time(10);
    this.mtimeMs = time(11);
    this.ctimeMs = time(12);
  }

  get atime(): Date {
    return new Date(Math.round(this.atimeMs));
  }

  get mtime(): Date {
    return new Date(Math.round(this.mtimeMs));
  }

  get ctime(): Date {
    return new Date(Math.round(this.ctimeMs));
  }

  protected override get kind(): number {
    return this.mode & constants.S_IFMT;
  }
}

/** An entry of a folder of the guest, as fs.Dirent. */
export class GuestDirent extends FileKind {
  readonly name: string;
  /** The folder's path. */
  readonly parentPath: string;
  readonly #type: number;

  /** @param type d_type of readdir(3), which is a mode's kind */
  constructor(name: string, parentPath: string, type: number) {
    super();
    this.name = name;
    this.parentPath = parentPath;
    this.#type = type;
  }

  protected override get kind(): number {
    return this.#type << 12;
  }
}

/** The name of a file in a folder; it may be the guest's invention. @throws PeerError */
export function checkedName(name: string): string {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) {
    throw protocolError('the name of a file');
  }
  return name;
}

/** Reads a list of folder entries: a type and a name, which a zero ends. @throws PeerError */
export function decodeEntries(bytes: Buffer, folder: string): GuestDirent[] {
  const entries: GuestDirent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0, at + 1);
    if (end < 0) throw protocolError('the entries of a folder');
    const name = checkedName(bytes.toString('utf8', at + 1, end));
    entries.push(new GuestDirent(name, folder, bytes.readUInt8(at)));
    at = end + 1;
  }
  return entries;
}
