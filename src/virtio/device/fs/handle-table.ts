/** Files and folders that the guest has open. It knows them by numbers that are never used again. */
import { EMFILE } from '../../../abi/errno.ts';
import * as sys from '../../../host/syscall.ts';
import type { DescriptorTable } from './descriptor-table.ts';

/** An open file or folder. */
export class FileHandle {
  readonly fh: number;
  readonly fd: number;
  readonly slot: number;
  readonly isFolder: boolean;
  /** Of a folder: the offset that the next entry has, two halves; -1 when that is not known. */
  offsetLow = 0;
  offsetHigh = 0;

  constructor(fh: number, fd: number, slot: number, isFolder: boolean) {
    this.fh = fh;
    this.fd = fd;
    this.slot = slot;
    this.isFolder = isFolder;
  }
}

export class HandleTable {
  readonly #descriptors: DescriptorTable;
  readonly #most: number;
  readonly #handles = new Map<number, FileHandle>();
  #next = 1;

  /** @param most how many there may be */
  constructor(descriptors: DescriptorTable, most: number) {
    this.#descriptors = descriptors;
    this.#most = most;
  }

  /**
   * @param fd owned from here on
   * @returns the handle, or a negative errno
   */
  open(fd: number, isFolder: boolean): FileHandle | number {
    const slot = this.#handles.size < this.#most ? this.#descriptors.add(fd) : -1;
    if (slot < 0) {
      sys.close(fd);
      return -EMFILE;
    }
    const handle = new FileHandle(this.#next++, fd, slot, isFolder);
    this.#handles.set(handle.fh, handle);
    return handle;
  }

  /** A file's. HOT. */
  file(fh: number): FileHandle | undefined {
    const handle = this.#handles.get(fh);
    return handle?.isFolder === false ? handle : undefined;
  }

  folder(fh: number): FileHandle | undefined {
    const handle = this.#handles.get(fh);
    return handle?.isFolder === true ? handle : undefined;
  }

  close(handle: FileHandle): void {
    this.#handles.delete(handle.fh);
    this.#descriptors.close(handle.slot);
  }

  clear(): void {
    for (const handle of this.#handles.values()) this.close(handle);
  }
}
