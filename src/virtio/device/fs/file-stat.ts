/** The result of statx(2). */
import { STATX_MNT_ID, statx } from '../../../abi/files.ts';
import { NativeMemory } from '../../../host/native-memory.ts';

/** A 64-bit value as a number, where that is exact. */
export type InodeNumber = number | bigint;

const { stx_mask, stx_mode, stx_ino, stx_dev_major, stx_dev_minor, stx_mnt_id } = statx;

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

  /** The device that holds it, as one number: Linux has 12 bits of major and 20 of minor. */
  get device(): number {
    const major = this.view.getUint32(stx_dev_major.offset, true);
    return major * 2 ** 32 + this.view.getUint32(stx_dev_minor.offset, true);
  }

  /** The mount in which it was found. No two have the same ID while a descriptor is open on one. */
  get mount(): number {
    // Before Linux 5.8 only mounts of different devices can be distinguished.
    const known = (this.view.getUint32(stx_mask.offset, true) & STATX_MNT_ID) !== 0;
    return known ? this.view.getUint32(stx_mnt_id.offset, true) : this.device;
  }
}
