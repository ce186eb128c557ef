/** The files that the guest's kernel knows, by node ID: each with an O_PATH descriptor. */
import { ENFILE } from '../../../abi/errno.ts';
import { S_IFDIR, S_IFMT, S_IFREG } from '../../../abi/files.ts';
import { FUSE_ROOT_ID } from '../../../abi/fuse.ts';
import * as sys from '../../../host/syscall.ts';
import type { FileStat, InodeNumber } from './attributes.ts';
import type { DescriptorTable } from './descriptor-table.ts';
import { IdMap } from './id-map.ts';

/**
 * Bits above the 48 that file systems use: for mount points that are not crossed, whose numbers
 * stay exact in a double, and above these for volumes.
 */
const UNCROSSED = 0x10_0000;
const FIRST_VOLUME = 0x20;
const VOLUME_SHIFT = 16;

/** A file of the host that the guest's kernel holds; the descriptor keeps its inode from being reused. */
export class Inode {
  /** Halves of the node ID. */
  readonly low: number;
  readonly high: number;
  /** -1 for a mount point that is not crossed: it has no file on the host. */
  readonly fd: number;
  readonly slot: number;
  /** S_IFREG and so on. */
  readonly kind: number;
  readonly volume: Volume;
  readonly ino: InodeNumber;
  /** The guest shows it as a separate file system, with its own device number. */
  readonly isSubmount: boolean;
  /** The upper bits of its reported inode number: except for submounts, the guest sees one device. */
  readonly numberBits: number;
  /** The guest's reference count: its lookups less its forgets. */
  lookups = 1;

  /** @param folder in which it was found, or null: it is the shared one */
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
    // A file that is itself a mount point, or that overlayfs shows with the device of one of its layers.
    const alien =
      isElsewhere && !this.isSubmount ? (FIRST_VOLUME + volume.index) << VOLUME_SHIFT : 0;
    this.numberBits = fd < 0 ? UNCROSSED : alien;
  }

  /** Something is mounted there that the guest may not see. */
  get isUncrossed(): boolean {
    return this.fd < 0;
  }
}

/**
 * The scope in which file numbers are unique: one device within one mount. A mount has more than one
 * where btrfs has subvolumes, and a device more than one where folders are bind-mounted.
 */
class Volume {
  readonly mount: number;
  readonly device: number;
  /** Below 32512, and unique as long as there are fewer volumes. */
  readonly index: number;
  readonly inodes = new Map<InodeNumber, Inode>();

  constructor(mount: number, device: number, index: number) {
    this.mount = mount;
    this.device = device;
    this.index = index;
  }
}

const INDICES = 0x7f00;

/** As many as the host has had at a time: the IDs of mounts that are gone are reused. */
class VolumeTable {
  readonly #byMount = new Map<number, Map<number, Volume>>();
  #next = 0;

  /** HOT. */
  find({ mount, device }: FileStat): Volume | undefined {
    return this.#byMount.get(mount)?.get(device);
  }

  /** The volume of a file, created for the first one. */
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

/** All of them, by their node IDs and by their identity on the host. */
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
   * @param most the maximum number of inodes
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
   * The guest is about to be given a file.
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
   * The guest is about to be given a mount point, without what is mounted there.
   * @param stat of that: only whether it is a folder is reported
   * @returns its inode, or a negative errno
   */
  lookUpUncrossed(stat: FileStat): Inode | number {
    // There is no mode where access is denied, as for a user's FUSE mount: those are folders.
    const isFile = stat.mode !== 0 && (stat.mode & S_IFMT) !== S_IFDIR;
    const kind = isFile ? S_IFREG : S_IFDIR;
    const known = this.#uncrossed.find(stat)?.inodes.get(kind);
    if (known !== undefined) {
      known.lookups += 1;
      return known;
    }
    if (this.#byId.size >= this.#most) return -ENFILE;
    this.#byId.take();
    // The mount is not held, so its ID may be reused for another: the type distinguishes them.
    const inode = new Inode(this.#byId, -1, -1, kind, kind, this.#uncrossed.take(stat), this.root);
    this.#insert(inode);
    return inode;
  }

  /** The guest forgets this many of its lookups of a file. */
  forget(inode: Inode | undefined, times: number): void {
    if (inode === undefined || inode === this.root) return;
    inode.lookups -= times;
    if (inode.lookups <= 0) this.#drop(inode);
  }

  /** All except the root. */
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
