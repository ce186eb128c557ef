/** The files that the guest's kernel knows, by node ID: each with a descriptor opened with O_PATH. */
import { ENFILE } from '../../../abi/errno.ts';
import { S_IFMT, statx } from '../../../abi/files.ts';
import { FUSE_ROOT_ID } from '../../../abi/fuse.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import * as sys from '../../../host/syscall.ts';
import type { DescriptorTable } from './descriptor-table.ts';
import { IdMap } from './id-map.ts';

/** A file of the host that the guest's kernel holds; the descriptor keeps its inode from being reused. */
export class Inode {
  /** Halves of the node ID. */
  readonly low: number;
  readonly high: number;
  readonly fd: number;
  readonly slot: number;
  /** S_IFREG and so on. */
  readonly kind: number;
  readonly device: number;
  readonly ino: InodeNumber;
  /** How often it was told to the guest, less what was forgotten. */
  lookups = 1;

  constructor(low: number, high: number, fd: number, slot: number, stat: FileStat) {
    this.low = low;
    this.high = high;
    this.fd = fd;
    this.slot = slot;
    this.kind = stat.mode & S_IFMT;
    this.device = stat.device;
    this.ino = stat.ino;
  }
}

/** A number where that is exact. */
type InodeNumber = number | bigint;

const { stx_mode, stx_ino, stx_dev_major, stx_dev_minor } = statx;

/** A `struct statx` in memory. */
export class FileStat extends NativeMemory {
  get mode(): number {
    return this.view.getUint16(stx_mode.offset, true);
  }

  get ino(): InodeNumber {
    const high = this.view.getUint32(stx_ino.offset + 4, true);
    if (high >= 2 ** 21) return this.view.getBigUint64(stx_ino.offset, true);
    return high * 2 ** 32 + this.view.getUint32(stx_ino.offset, true);
  }

  /** The device that it lies on, as one number: Linux has 12 bits of major and 20 of minor. */
  get device(): number {
    const major = this.view.getUint32(stx_dev_major.offset, true);
    return major * 2 ** 32 + this.view.getUint32(stx_dev_minor.offset, true);
  }
}

/** All of them, by their node IDs and by what they are on the host. */
export class InodeTable {
  readonly #descriptors: DescriptorTable;
  readonly #most: number;
  readonly #byId = new IdMap<Inode>();
  readonly #byDevice = new Map<number, Map<InodeNumber, Inode>>();
  readonly #root: Inode;

  /**
   * @param rootFd the shared folder; stays the caller's
   * @param rootStat of it
   * @param most how many there may be
   */
  constructor(descriptors: DescriptorTable, rootFd: number, rootStat: FileStat, most: number) {
    this.#descriptors = descriptors;
    this.#most = most;
    this.#root = new Inode(FUSE_ROOT_ID, 0, rootFd, -1, rootStat);
    this.#insert(this.#root);
  }

  get(low: number, high: number): Inode | undefined {
    return this.#byId.get(low, high);
  }

  /** The one that a descriptor or name was found to stand for, if the guest knows it. */
  find(stat: FileStat): Inode | undefined {
    return this.#byDevice.get(stat.device)?.get(stat.ino);
  }

  /**
   * The guest is going to be told of a file.
   * @param fd opened with O_PATH; owned from here on
   * @param stat of it
   * @returns its inode, or a negative errno
   */
  lookUp(fd: number, stat: FileStat): Inode | number {
    const known = this.find(stat);
    if (known !== undefined) {
      sys.close(fd);
      known.lookups += 1;
      return known;
    }
    const slot = this.#byId.size < this.#most ? this.#descriptors.add(fd) : -1;
    if (slot < 0) {
      sys.close(fd);
      return -ENFILE;
    }
    this.#byId.take();
    const inode = new Inode(this.#byId.low, this.#byId.high, fd, slot, stat);
    this.#insert(inode);
    return inode;
  }

  /** The guest forgets so many of the times that it was told of a file. */
  forget(inode: Inode | undefined, times: number): void {
    if (inode === undefined || inode === this.#root) return;
    inode.lookups -= times;
    if (inode.lookups <= 0) this.#drop(inode);
  }

  /** All but the root. */
  clear(): void {
    for (const inode of this.#byId.values()) if (inode !== this.#root) this.#drop(inode);
  }

  #insert(inode: Inode): void {
    this.#byId.add(inode);
    const { device, ino } = inode;
    const numbers = this.#byDevice.get(device);
    if (numbers === undefined) this.#byDevice.set(device, new Map([[ino, inode]]));
    else numbers.set(ino, inode);
  }

  #drop(inode: Inode): void {
    this.#byId.delete(inode);
    const numbers = this.#byDevice.get(inode.device);
    numbers?.delete(inode.ino);
    if (numbers?.size === 0) this.#byDevice.delete(inode.device);
    this.#descriptors.close(inode.slot);
  }
}
