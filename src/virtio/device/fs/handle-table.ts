/** Files and folders that the guest has open. */
import { EMFILE } from '../../../abi/errno.ts';
import * as sys from '../../../host/syscall.ts';
import type { DescriptorTable } from './descriptor-table.ts';
import { IdMap } from './id-map.ts';

/** An open file or folder. */
export class FileHandle {
  /** Halves of the guest's number for it. */
  readonly low: number;
  readonly high: number;
  readonly fd: number;
  readonly slot: number;
  readonly isFolder: boolean;
  /** For a file that the host only accepts appends to. */
  appendOnly = false;
  /** For a folder: the offset of the next entry, two halves; -1 when unknown. */
  offsetLow = 0;
  offsetHigh = 0;

  constructor(low: number, high: number, fd: number, slot: number, isFolder: boolean) {
    this.low = low;
    this.high = high;
    this.fd = fd;
    this.slot = slot;
    this.isFolder = isFolder;
  }
}

export class HandleTable {
  readonly #descriptors: DescriptorTable;
  readonly #most: number;
  readonly #handles = new IdMap<FileHandle>();

  /** @param most the maximum number of handles */
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
    this.#handles.take();
    const { low, high } = this.#handles;
    const handle = new FileHandle(low, high, fd, slot, isFolder);
    this.#handles.add(handle);
    return handle;
  }

  /** For a file. HOT. */
  file(low: number, high: number): FileHandle | undefined {
    const handle = this.#handles.get(low, high);
    return handle?.isFolder === false ? handle : undefined;
  }

  folder(low: number, high: number): FileHandle | undefined {
    const handle = this.#handles.get(low, high);
    return handle?.isFolder === true ? handle : undefined;
  }

  close(handle: FileHandle): void {
    this.#handles.delete(handle);
    this.#descriptors.close(handle.slot);
  }

  clear(): void {
    for (const handle of this.#handles.values()) this.close(handle);
  }
}
