/**
 * A shared folder as one guest sees it: the state of its kernel, from mount to unmount. It
 * outlives the data half, so that a guest that was paused, or whose queues moved, finds its files.
 */
import { ENOSYS, ESTALE, EXDEV } from '../../../abi/errno.ts';
import * as abi from '../../../abi/files.ts';
import { FileCredentials } from '../../../host/file-credentials.ts';
import * as files from '../../../host/file-system.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import * as sys from '../../../host/syscall.ts';
import { FileStat } from './attributes.ts';
import { DescriptorTable } from './descriptor-table.ts';
import type { FuseRequest } from './fuse-request.ts';
import { type FileHandle, HandleTable } from './handle-table.ts';
import { type Inode, InodeTable } from './inode-table.ts';
import { type XattrMode, XattrNames } from './xattr-names.ts';

/** Options of the data half; a plain, cloneable message. */
export interface FsHandlerOptions {
  /** The shared folder, opened with O_PATH; stays its opener's. */
  readonly rootFd: number;
  readonly readOnly: boolean;
  /** File systems mounted below the folder are shared as well. */
  readonly submounts: boolean;
  readonly xattr: XattrMode;
  /** The guest may make device nodes. */
  readonly mknod: boolean;
  /** For the `DescriptorTable`. */
  readonly descriptors: SharedArrayBuffer;
  /** The most inodes, and the most open files. */
  readonly maxInodes: number;
  readonly maxHandles: number;
}

/** Of the thread that makes it. */
export class FileSystem {
  readonly readOnly: boolean;
  /**
   * The guest can show folders as separate file systems (FUSE_SUBMOUNTS): Linux 5.10. True until
   * a mount negotiates otherwise.
   */
  showsSubmounts = true;
  /** Likewise: it supports ACLs, and leaves the umask to the host where a folder has a default one. */
  heedsAcls = true;
  readonly makesDevices: boolean;
  readonly xattrs: XattrNames;
  readonly inodes: InodeTable;
  readonly handles: HandleTable;
  readonly credentials = new FileCredentials();
  /** Of the file that was examined last. */
  readonly stat = new FileStat(abi.STATX_LENGTH);
  readonly #submounts: boolean;
  readonly #descriptors: DescriptorTable;
  readonly #paths = new files.DescriptorPath();
  readonly #empty = new NativeMemory(1);
  readonly #dot = new NativeMemory(2);

  constructor(options: FsHandlerOptions) {
    this.readOnly = options.readOnly;
    this.makesDevices = options.mknod;
    this.xattrs = new XattrNames(options.xattr);
    this.#submounts = options.submounts;
    this.#descriptors = new DescriptorTable(options.descriptors);
    this.#dot.bytes[0] = 0x2e;
    sys.check(this.look(options.rootFd), 'statx', 'the shared folder');
    const { maxInodes, maxHandles } = options;
    this.inodes = new InodeTable(this.#descriptors, options.rootFd, this.stat, maxInodes);
    this.handles = new HandleTable(this.#descriptors, maxHandles);
  }

  /** As `HandlerContext.isInterrupted`, of the current handler. */
  isInterrupted: () => boolean = () => false;

  /** Addresses of an empty name, and of the name of a folder within itself. */
  get emptyName(): number {
    return this.#empty.address;
  }

  get dotName(): number {
    return this.#dot.address;
  }

  /** The guest unmounted, or mounts again. */
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

  /** Address of a path that denotes a descriptor's file; good until the next call. */
  pathOf(fd: number): number {
    return this.#paths.of(fd);
  }

  /** Fills `stat` for a descriptor's file. Returns 0 or a negative errno. */
  look(fd: number): number {
    const flags = abi.AT_EMPTY_PATH | abi.AT_NO_AUTOMOUNT;
    const mask = abi.STATX_BASIC_STATS | abi.STATX_MNT_ID;
    return files.statx(fd, this.#empty.address, flags, mask, this.stat.address);
  }

  /**
   * Looks a name up in a folder for the guest, and fills `stat` for it.
   * @param name address of one component of a path
   */
  lookUp(folder: Inode, name: number): Inode | number {
    const flags = abi.O_PATH | abi.O_NOFOLLOW | abi.O_CLOEXEC;
    let fd = this.#submounts ? -ENOSYS : files.openatInMount(folder.fd, name, flags);
    if (fd === -EXDEV) return this.#lookUpUncrossed(folder, name);
    if (fd === -ENOSYS) fd = files.openat(folder.fd, name, flags);
    return fd < 0 ? fd : this.hold(fd, folder);
  }

  /** As `lookUp`, of a descriptor opened with O_PATH in the folder, which is owned from here on. */
  hold(fd: number, folder: Inode): Inode | number {
    const looked = this.look(fd);
    if (looked >= 0 && this.#crosses(folder)) return this.inodes.lookUp(fd, this.stat, folder);
    sys.close(fd);
    return looked < 0 ? looked : this.inodes.lookUpUncrossed(this.stat);
  }

  /** Whether the guest may see the file in `stat`, as far as mounts are concerned. */
  #crosses({ volume }: Inode): boolean {
    const { stat } = this;
    if (stat.mount !== volume.mount && !this.#submounts) return false;
    // Btrfs subvolumes that are not mounts, too: their inode numbers repeat those of other files outside.
    const isElsewhere = stat.mount !== volume.mount || stat.device !== volume.device;
    return !isElsewhere || this.showsSubmounts || (stat.mode & abi.S_IFMT) !== abi.S_IFDIR;
  }

  /** Only the type of what is mounted there is read: its server may be gone, or be another user's. */
  #lookUpUncrossed(folder: Inode, name: number): Inode | number {
    const fd = files.openat(folder.fd, name, abi.O_PATH | abi.O_NOFOLLOW | abi.O_CLOEXEC);
    if (fd < 0) return fd;
    const flags = abi.AT_EMPTY_PATH | abi.AT_NO_AUTOMOUNT | abi.AT_STATX_DONT_SYNC;
    const mask = abi.STATX_TYPE | abi.STATX_MNT_ID;
    const looked = files.statx(fd, this.#empty.address, flags, mask, this.stat.address);
    sys.close(fd);
    return looked < 0 ? looked : this.inodes.lookUpUncrossed(this.stat);
  }

  /** Opens the regular file of an inode again. Returns a descriptor or errno. */
  reopen(fd: number, flags: number): number {
    return files.openat(-1, this.pathOf(fd), flags | abi.O_CLOEXEC);
  }

  /**
   * The content of an open file changes: it loses set-user-ID, set-group-ID and capabilities. The host
   * clears its own capabilities, but not the IDs, since nodevmm may be allowed to keep them.
   * @param kills the IDs are cleared as well
   */
  takePrivileges(fd: number, kills: boolean): void {
    const kept = this.xattrs.keptCapability;
    if (kept !== 0 && files.fgetxattr(fd, kept, 0, 0) >= 0) this.takeCapability(fd);
    if (!kills || this.look(fd) < 0) return;
    const { mode } = this.stat;
    const group = (mode & abi.S_IXGRP) === 0 ? 0 : abi.S_ISGID;
    const killed = mode & (abi.S_ISUID | group);
    if (killed !== 0) files.fchmod(fd, mode & 0o7777 & ~killed);
  }

  /** The owner of a file changes: it loses capabilities. @param fd may be opened with O_PATH */
  takeCapability(fd: number): void {
    const kept = this.xattrs.keptCapability;
    if (kept !== 0) files.removexattr(this.pathOf(fd), kept);
  }
}

/** The result of an operation on a node ID that the guest does not hold. */
export const UNKNOWN = -ESTALE;
