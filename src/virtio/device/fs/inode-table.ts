/** The files that the guest's kernel knows, by node ID: each with a descriptor opened with O_PATH. */
import { ENFILE } from '../../../abi/errno.ts';
import { S_IFDIR, S_IFMT, S_IFREG } from '../../../abi/files.ts';
import { FUSE_ROOT_ID } from '../../../abi/fuse.ts';
import * as sys from '../../../host/syscall.ts';
import type { DescriptorTable } from './descriptor-table.ts';
import type { FileStat, InodeNumber } from './file-stat.ts';
import { IdMap } from './id-map.ts';

/**
 * Bits above the 48 that file systems use: of mount points that are not crossed, whose numbers are
 * exact in a double that way, and of volumes, whose are beyond.
 */
const UNCROSSED = 0x10_0000;
const FIRST_VOLUME = 0x20;
const VOLUME_SHIFT = 16;

/** A file of the host that the guest's kernel holds; the descriptor keeps its inode from being reused. */
export class Inode {
  /** Halves of the node ID. */
  readonly low: number;
  readonly high: number;
  /** -1 of a mount point that is not crossed: no file of the host is behind it. */
  readonly fd: number;
  readonly slot: number;
  /** S_IFREG and so on. */
  readonly kind: number;
  readonly volume: Volume;
  readonly ino: InodeNumber;
  /** The guest shows it as a file system of its own, with a device number of its own. */
  readonly isSubmount: boolean;
  /** Bits that the upper half of its number is told with: to the guest all but submounts is one device. */
  readonly numberBits: number;
  /** How often it was told to the guest, less what was forgotten. */
  lookups = 1;

  /** @param folder that it was found in, or null: it is the shared one */
  constructor(
    id: { readonly low: number; readonly high: number },
    fd: number,
    slot: number,
    kind: number,
    ino: InodeNumber,
    volume: Volume,
    folder: Inode | null,
  ) {
    this.low = id.low;
    this.high = id.high;
    this.fd = fd;
    this.slot = slot;
    this.kind = kind;
    this.volume = volume;
    this.ino = ino;
    const isElsewhere = folder !== null && folder.volume !== volume;
    this.isSubmount = isElsewhere && kind === S_IFDIR && fd >= 0;
    // A file that is mounted by itself, or that overlayfs shows with the device of one of its layers.
    const alien =
      isElsewhere && !this.isSubmount ? (FIRST_VOLUME + volume.index) << VOLUME_SHIFT : 0;
    this.numberBits = fd < 0 ? UNCROSSED : alien;
  }

  /** Something is mounted there that the guest does not get to see. */
  get isUncrossed(): boolean {
    return this.fd < 0;
  }
}

/**
 * Within which the numbers of files are unique: one device within one mount. A mount has more than one
 * where btrfs has subvolumes, and a device more than one where folders are bound to several places.
 */
class Volume {
  readonly mount: number;
  readonly device: number;
  /** Less than 32512, and no other volume's as long as there are less. */
  readonly index: number;
  readonly inodes = new Map<InodeNumber, Inode>();

  constructor(mount: number, device: number, index: number) {
    this.mount = mount;
    this.device = device;
    this.index = index;
  }
}

const INDICES = 0x7f00;

/** As many as the host has had at a time: the numbers of mounts that are gone are given out anew. */
class VolumeTable {
  readonly #byMount = new Map<number, Map<number, Volume>>();
  #next = 0;

  /** HOT. */
  find({ mount, device }: FileStat): Volume | undefined {
    return this.#byMount.get(mount)?.get(device);
  }

  /** The one that a file lies on, made when it is the first. */
  take({ mount, device }: FileStat): Volume {
    const devices = this.#byMount.get(mount) ?? new Map<number, Volume>();
    const known = devices.get(device);
    if (known !== undefined) return known;
    this.#next = (this.#next % INDICES) + 1;
    const volume = new Volume(mount, device, this.#next);
    devices.set(device, volume);
    this.#byMount.set(mount, devices);
    return volume;
  }
}

/** All of them, by their node IDs and by what they are on the host. */
export class InodeTable {
  readonly root: Inode;
  readonly #descriptors: DescriptorTable;
  readonly #most: number;
  readonly #byId = new IdMap<Inode>();
  readonly #volumes = new VolumeTable();
  /** Mount points that are not crossed, by what is mounted there. */
  readonly #uncrossed = new VolumeTable();

  /**
   * @param rootFd the shared folder; stays the caller's
   * @param rootStat of it
   * @param most how many there may be
   */
  constructor(descriptors: DescriptorTable, rootFd: number, rootStat: FileStat, most: number) {
    this.#descriptors = descriptors;
    this.#most = most;
    const volume = this.#volumes.take(rootStat);
    const id = { low: FUSE_ROOT_ID, high: 0 };
    this.root = new Inode(id, rootFd, -1, S_IFDIR, rootStat.ino, volume, null);
    this.#insert(this.root);
  }

  get(low: number, high: number): Inode | undefined {
    return this.#byId.get(low, high);
  }

  /**
   * The guest is going to be told of a file.
   * @param fd opened with O_PATH; owned from here on
   * @param stat of it
   * @param folder that it was found in
   * @returns its inode, or a negative errno
   */
  lookUp(fd: number, stat: FileStat, folder: Inode): Inode | number {
    const { ino } = stat;
    const known = this.#volumes.find(stat)?.inodes.get(ino);
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
    const volume = this.#volumes.take(stat);
    const inode = new Inode(this.#byId, fd, slot, stat.mode & S_IFMT, ino, volume, folder);
    this.#insert(inode);
    return inode;
  }

  /**
   * The guest is going to be told of a mount point, and not of what is mounted there.
   * @param stat of that: of it is told whether it is a folder
   * @returns its inode, or a negative errno
   */
  lookUpUncrossed(stat: FileStat): Inode | number {
    // There is no mode where looking is denied, as of a user's FUSE mount: those are folders.
    const isFile = stat.mode !== 0 && (stat.mode & S_IFMT) !== S_IFDIR;
    const kind = isFile ? S_IFREG : S_IFDIR;
    const known = this.#uncrossed.find(stat)?.inodes.get(kind);
    if (known !== undefined) {
      known.lookups += 1;
      return known;
    }
    if (this.#byId.size >= this.#most) return -ENFILE;
    this.#byId.take();
    // The mount is not held, so that its number may come to stand for another: the kind tells them apart.
    const inode = new Inode(this.#byId, -1, -1, kind, kind, this.#uncrossed.take(stat), this.root);
    this.#insert(inode);
    return inode;
  }

  /** The guest forgets so many of the times that it was told of a file. */
  forget(inode: Inode | undefined, times: number): void {
    if (inode === undefined || inode === this.root) return;
    inode.lookups -= times;
    if (inode.lookups <= 0) this.#drop(inode);
  }

  /** All but the root. */
  clear(): void {
    for (const inode of this.#byId.values()) if (inode !== this.root) this.#drop(inode);
  }

  #insert(inode: Inode): void {
    this.#byId.add(inode);
    inode.volume.inodes.set(inode.ino, inode);
  }

  #drop(inode: Inode): void {
    this.#byId.delete(inode);
    inode.volume.inodes.delete(inode.ino);
    if (!inode.isUncrossed) this.#descriptors.close(inode.slot);
  }
}
