/** Files, and pieces of them, that are read straight into guest memory. */

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { Closeable } from '../host/cleanup-stack.ts';
import { type Reason, UsageError } from '../host/errors.ts';

/** Random access to the bytes of a file or of a buffer. */
export interface ByteSource extends Disposable {
  /** What error messages call it, e.g. `kernel /boot/vmlinuz`. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Fills `target` with the bytes from `position` on. @throws UsageError when there are fewer */
  read(position: number, target: Uint8Array): void;
}

/** The longest piece that one read(2) takes. */
const LONGEST_READ = 2 ** 30;

/** A regular file, open for reading. */
export class FileSource extends Closeable implements ByteSource {
  readonly name: string;
  readonly size: number;
  #fd: number;

  /**
   * @param path the file
   * @param role what it is for, e.g. `kernel`
   * @throws UsageError E_FILE when it does not exist, cannot be read, or is not a file
   */
  constructor(path: string, role: string) {
    super();
    this.name = `${role} ${path}`;
    try {
      // O_NONBLOCK: opening a FIFO by mistake must not wait for its writer.
      this.#fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw unreadable(this.name, error);
    }
    const stat = fstatSync(this.#fd);
    this.size = stat.size;
    if (!stat.isFile()) {
      this.close();
      throw new UsageError('E_FILE', `${this.name} is not a regular file`, 'use one');
    }
  }

  /**
   * Distinguishes this version of the file from all others, cheaply. Without the device, whose number
   * differs between a host and a guest that see the same file.
   */
  identity(): string {
    const { ino, size, mtimeNs, ctimeNs } = fstatSync(this.#fd, { bigint: true });
    return [ino, size, mtimeNs, ctimeNs].join(':');
  }

  read(position: number, target: Uint8Array): void {
    let done = 0;
    while (done < target.length) {
      const length = Math.min(target.length - done, LONGEST_READ);
      let count: number;
      try {
        count = readSync(this.#fd, target, done, length, position + done);
      } catch (error) {
        throw unreadable(this.name, error);
      }
      if (count === 0) throw truncated(this.name, position + target.length, position + done);
      done += count;
    }
  }

  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** Bytes in this process. */
export class BufferSource extends Closeable implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, name: string) {
    super();
    this.name = name;
    this.size = bytes.length;
    this.#bytes = bytes;
  }

  read(position: number, target: Uint8Array): void {
    const end = position + target.length;
    if (end > this.size) throw truncated(this.name, end, this.size);
    target.set(this.#bytes.subarray(position, end));
  }

  /** Nothing to give back. */
  close(): void {}
}

/** A piece of a source as a view, for reading headers. @throws UsageError when it is not all there */
export function readView(source: ByteSource, position: number, length: number): DataView {
  if (position + length > source.size) throw truncated(source.name, position + length, source.size);
  const bytes = new Uint8Array(length);
  source.read(position, bytes);
  return new DataView(bytes.buffer);
}

/** The error for a file that is shorter than its headers claim. */
export function truncated(name: string, needed: number, size: number): UsageError {
  return new UsageError(
    'E_TRUNCATED',
    `${name} is truncated: it needs ${needed} bytes and has ${size}`,
    'copy or install it again',
  );
}

function unreadable(name: string, cause: unknown): UsageError {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'EIO';
  const reasons: Readonly<Record<string, Reason>> = {
    ENOENT: ['no such file', 'check the path'],
    EACCES: ['permission denied', 'make it readable, or copy it to a readable place'],
    EISDIR: ['it is a directory', 'use a file'],
  };
  const [why, remedy] = reasons[code] ?? [code, 'check the file and its file system'];
  return new UsageError('E_FILE', `${name} cannot be read: ${why}`, remedy, { cause });
}
