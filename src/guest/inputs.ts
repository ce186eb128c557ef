/** The files that something was made from, to see later whether it would come out the same. */
import { readFileSync, statSync } from 'node:fs';

/** Size and time of each file, by path. */
export type Fingerprint = Readonly<Record<string, string>>;

/** Reads files and remembers which. */
export class Inputs {
  readonly #seen: Record<string, string> = {};

  /** A file's bytes. */
  read(path: string): Buffer {
    this.see(path);
    return readFileSync(path);
  }

  /** Remembers a file, or a folder's list of names, that is read otherwise. */
  see(path: string): void {
    this.#seen[path] = stampOf(path);
  }

  fingerprint(): Fingerprint {
    return this.#seen;
  }
}

/** Whether all files are as they were. */
export function isUnchanged(fingerprint: Fingerprint): boolean {
  return Object.entries(fingerprint).every(([path, stamp]) => {
    try {
      return stampOf(path) === stamp;
    } catch {
      return false;
    }
  });
}

function stampOf(path: string): string {
  const { size, mtimeMs } = statSync(path);
  return `${size} ${mtimeMs}`;
}
