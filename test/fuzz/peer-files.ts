/** Descriptors of all kinds, as a peer may send them: the right one, and what only looks like it. */
import { closeSync, openSync } from 'node:fs';
import fc from 'fast-check';
import { Eventfd } from '../../src/host/fd.ts';
import * as sys from '../../src/host/syscall.ts';

/** What a peer can send. */
export const FILE_KINDS = [
  'memory',
  'eventfd',
  'record',
  'readonly',
  'empty',
  'socket',
  'device',
  'folder',
] as const;
export type FileKind = (typeof FILE_KINDS)[number];

/** Mostly what has a use. */
export const fileKind: fc.Arbitrary<FileKind> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<FileKind>('memory') },
  { weight: 3, arbitrary: fc.constant<FileKind>('eventfd') },
  { weight: 3, arbitrary: fc.constantFrom(...FILE_KINDS) },
);

const memfd = (name: string, size: number): number => {
  const fd = sys.check(sys.memfdCreate(name, 1), 'memfd_create', name);
  sys.check(sys.ftruncate(fd, size), 'ftruncate', name);
  return fd;
};

/** Owns one of each. */
export class PeerFiles implements Disposable {
  readonly #eventfd = new Eventfd();
  readonly #opened: Record<Exclude<FileKind, 'eventfd' | 'socket'>, number>;
  readonly #socket: number;

  /** @param socket stays the caller's */
  constructor(memoryBytes: number, recordBytes: number, socket: number) {
    const record = memfd('fuzz-record', recordBytes);
    this.#opened = {
      memory: memfd('fuzz-memory', memoryBytes),
      record,
      readonly: openSync(`/proc/self/fd/${record}`, 'r'),
      empty: memfd('fuzz-empty', 0),
      device: openSync('/dev/zero', 'r+'),
      folder: openSync('/', 'r'),
    };
    this.#socket = socket;
  }

  get(kind: FileKind): number {
    if (kind === 'eventfd') return this.#eventfd.fd;
    return kind === 'socket' ? this.#socket : this.#opened[kind];
  }

  [Symbol.dispose](): void {
    this.#eventfd.close();
    for (const fd of Object.values(this.#opened)) closeSync(fd);
  }
}
