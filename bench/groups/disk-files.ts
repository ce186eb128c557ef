/** The files behind the disks: one in memory, one on a real file system. */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { CleanupStack } from '../../src/host/cleanup-stack.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import type { DiskSpec } from '../subjects/subject.ts';

/** All tmpfs-backed disks are here. */
const MEMORY_FOLDER = '/dev/shm';
const MIB = 2 ** 20;

/** A disk and its location. */
export interface DiskFile extends DiskSpec {
  readonly label: string;
}

/** Files with content, gone at the end. */
export class DiskFiles implements Disposable {
  readonly files: readonly DiskFile[];
  readonly #folders = new CleanupStack();

  /** @param folder on a real file system @param sizeMiB of each file */
  constructor(folder: string, sizeMiB: number) {
    this.files = [
      this.#make('tmpfs', MEMORY_FOLDER, sizeMiB),
      this.#make('file system', folder, sizeMiB),
    ];
  }

  [Symbol.dispose](): void {
    this.#folders.dispose();
  }

  #make(label: string, parent: string, sizeMiB: number): DiskFile {
    const folder = this.#folders.use(new TemporaryFolder('nodevmm-bench-', parent));
    const path = join(folder.path, 'disk');
    const file = openSync(path, 'w');
    // Content that is not zero, so that no lower layer may treat it as a hole.
    const block = randomBytes(MIB);
    for (let i = 0; i < sizeMiB; i++) writeSync(file, block);
    fsyncSync(file);
    closeSync(file);
    return { label, path, direct: takesDirect(path) };
  }
}

/** tmpfs supports O_DIRECT since Linux 6.6. */
function takesDirect(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}
