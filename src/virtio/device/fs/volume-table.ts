/**
 * Files by what they are on the host. Their numbers are unique within a volume: one device within one
 * mount. A mount has more than one where btrfs has subvolumes, and a device more than one where
 * folders are bound to several places.
 */
import type { FileStat, InodeNumber } from './file-stat.ts';
import type { Inode } from './inode-table.ts';

/** One of them. */
export class Volume {
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
export class VolumeTable {
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
