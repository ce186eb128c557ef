/**
 * A shared folder as one guest sees it: what its kernel holds, from its mount to the unmount. It
 * outlives the data half, so that a guest that was paused, or whose queues moved, finds its files.
 */
import { ESTALE } from '../../../abi/errno.ts';
import {
  AT_EMPTY_PATH,
  AT_NO_AUTOMOUNT,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_PATH,
  STATX_BASIC_STATS,
  STATX_LENGTH,
} from '../../../abi/files.ts';
import { FileCredentials } from '../../../host/file-credentials.ts';
import * as files from '../../../host/file-system.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import * as sys from '../../../host/syscall.ts';
import { DescriptorTable } from './descriptor-table.ts';
import type { FuseRequest } from './fuse-request.ts';
import { type FileHandle, HandleTable } from './handle-table.ts';
import { FileStat, type Inode, InodeTable } from './inode-table.ts';

/** Options of the data half; a plain, cloneable message. */
export interface FsHandlerOptions {
  /** The shared folder, opened with O_PATH; stays its opener's. */
  readonly rootFd: number;
  readonly readOnly: boolean;
  /** Of the `DescriptorTable`. */
  readonly descriptors: SharedArrayBuffer;
  /** The most inodes, and the most open files. */
  readonly maxInodes: number;
  readonly maxHandles: number;
}

/** Of the thread that makes it. */
export class FileSystem {
  readonly readOnly: boolean;
  readonly inodes: InodeTable;
  readonly handles: HandleTable;
  readonly credentials = new FileCredentials();
  /** Of the file that was looked at last. */
  readonly stat = new FileStat(STATX_LENGTH);
  readonly #descriptors: DescriptorTable;
  readonly #epoch: number;
  readonly #paths = new files.DescriptorPath();
  readonly #empty = new NativeMemory(1);
  readonly #dot = new NativeMemory(2);

  constructor(options: FsHandlerOptions) {
    this.readOnly = options.readOnly;
    this.#descriptors = new DescriptorTable(options.descriptors);
    this.#epoch = this.#descriptors.epoch;
    this.#dot.bytes[0] = 0x2e;
    sys.check(this.look(options.rootFd), 'statx', 'the shared folder');
    const { maxInodes, maxHandles } = options;
    this.inodes = new InodeTable(this.#descriptors, options.rootFd, this.stat, maxInodes);
    this.handles = new HandleTable(this.#descriptors, maxHandles);
  }

  /** False once the device was reset: what this object remembers is gone. */
  get isCurrent(): boolean {
    return this.#descriptors.epoch === this.#epoch;
  }

  /** Addresses of an empty name, and of the name of a folder within itself. */
  get emptyName(): number {
    return this.#empty.address;
  }

  get dotName(): number {
    return this.#dot.address;
  }

  /** The guest unmounted, or mounts anew. */
  forgetAll(): void {
    this.handles.clear();
    this.inodes.clear();
  }

  /** The inode, open file or open folder whose number is at a place of a request's `input`. HOT. */
  inodeAt(request: FuseRequest, at: number): Inode | undefined {
    return this.inodes.get(request.u32(at), request.u32(at + 4));
  }

  fileAt(request: FuseRequest, at: number): FileHandle | undefined {
    return this.handles.file(request.u32(at), request.u32(at + 4));
  }

  folderAt(request: FuseRequest, at: number): FileHandle | undefined {
    return this.handles.folder(request.u32(at), request.u32(at + 4));
  }

  /** Address of a path that stands for a descriptor's file; good until the next call. */
  pathOf(fd: number): number {
    return this.#paths.of(fd);
  }

  /** Has `stat` tell of a descriptor's file. Returns 0 or a negative errno. */
  look(fd: number): number {
    const flags = AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
    return files.statx(fd, this.#empty.address, flags, STATX_BASIC_STATS, this.stat.address);
  }

  /**
   * Looks a name up in a folder, to tell the guest: `stat` tells of it, too.
   * @param name address of one component of a path
   */
  lookUp(folder: Inode, name: number): Inode | number {
    const fd = files.openat(folder.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? fd : this.hold(fd);
  }

  /** As `lookUp`, of a descriptor opened with O_PATH, which is owned from here on. */
  hold(fd: number): Inode | number {
    const looked = this.look(fd);
    if (looked >= 0) return this.inodes.lookUp(fd, this.stat);
    sys.close(fd);
    return looked;
  }

  /** Opens the file of an inode, which is a regular one, once more. Returns a descriptor or errno. */
  reopen(fd: number, flags: number): number {
    return files.openat(-1, this.pathOf(fd), flags | O_CLOEXEC);
  }
}

/** What an operation on a node ID that the guest does not hold is answered with. */
export const UNKNOWN = -ESTALE;
