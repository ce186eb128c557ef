/** A file's attributes: as the host has them, and in FUSE's format. */
import { S_IFDIR, STATX_MNT_ID, statx } from '../../../abi/files.ts';
import { FUSE_ATTR_SUBMOUNT, fuse_attr, fuse_attr_out, fuse_entry_out } from '../../../abi/fuse.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import type { Inode } from './inode-table.ts';

/** A 64-bit value as a number, where that is exact. */
export type InodeNumber = number | bigint;

const { stx_mask, stx_mode, stx_ino, stx_dev_major, stx_dev_minor, stx_mnt_id } = statx;

/** The result of statx(2): a `struct statx` in memory. */
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

/** How long the guest may cache names and attributes, in seconds. */
const VALID_SECONDS = 1;

/** Fields that are the same in both, their offsets, and their numbers of 32-bit words. */
const COPIED = [
  [statx.stx_ino, fuse_attr.ino],
  [statx.stx_size, fuse_attr.size_],
  [statx.stx_blocks, fuse_attr.blocks],
  [statx.atime_sec, fuse_attr.atime],
  [statx.mtime_sec, fuse_attr.mtime],
  [statx.ctime_sec, fuse_attr.ctime],
  [statx.atime_nsec, fuse_attr.atimensec],
  [statx.mtime_nsec, fuse_attr.mtimensec],
  [statx.ctime_nsec, fuse_attr.ctimensec],
  [statx.stx_nlink, fuse_attr.nlink],
  [statx.stx_uid, fuse_attr.uid],
  [statx.stx_gid, fuse_attr.gid],
  [statx.stx_blksize, fuse_attr.blksize],
] as const;

/** The block size of a mount point that is not crossed. */
const BLOCK = 4096;

/** For a mount point that is not crossed: an empty folder, or a file that cannot be opened. */
function writeUncrossed(to: DataView, at: number, inode: Inode): void {
  const isFolder = inode.kind === S_IFDIR;
  new Uint8Array(to.buffer, to.byteOffset + at, fuse_attr.size).fill(0);
  to.setUint32(at + fuse_attr.ino.offset, inode.low, true);
  to.setUint32(at + fuse_attr.ino.offset + 4, inode.numberBits, true);
  to.setUint32(at + fuse_attr.mode.offset, inode.kind | (isFolder ? 0o555 : 0), true);
  to.setUint32(at + fuse_attr.nlink.offset, isFolder ? 2 : 1, true);
  to.setUint32(at + fuse_attr.blksize.offset, BLOCK, true);
}

/** Writes a `struct fuse_attr`. */
function writeAttributes(to: DataView, at: number, inode: Inode, stat: FileStat): void {
  if (inode.isUncrossed) {
    writeUncrossed(to, at, inode);
    return;
  }
  const { view } = stat;
  for (const [from, { offset, length }] of COPIED) {
    for (let byte = 0; byte < length; byte += 4) {
      to.setUint32(at + offset + byte, view.getUint32(from.offset + byte, true), true);
    }
  }
  const major = view.getUint32(statx.stx_rdev_major.offset, true);
  const minor = view.getUint32(statx.stx_rdev_minor.offset, true);
  to.setUint32(at + fuse_attr.mode.offset, stat.mode, true);
  // As the kernel's new_encode_dev: 12 bits of major between those of minor.
  const device = (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
  to.setUint32(at + fuse_attr.rdev.offset, device >>> 0, true);
  to.setUint32(at + fuse_attr.flags.offset, inode.isSubmount ? FUSE_ATTR_SUBMOUNT : 0, true);
  if (inode.numberBits !== 0) {
    const high = at + fuse_attr.ino.offset + 4;
    to.setUint32(high, to.getUint32(high, true) ^ inode.numberBits, true);
  }
}

function writeU64(to: DataView, at: number, value: number): void {
  to.setUint32(at, value >>> 0, true);
  to.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Writes a `struct fuse_attr_out`. Returns its size. */
export function writeAttrOut(to: DataView, at: number, inode: Inode, stat: FileStat): number {
  writeU64(to, at + fuse_attr_out.attr_valid.offset, VALID_SECONDS);
  writeU64(to, at + fuse_attr_out.attr_valid_nsec.offset, 0);
  writeAttributes(to, at + fuse_attr_out.attr.offset, inode, stat);
  return fuse_attr_out.size;
}

/** Writes a `struct fuse_entry_out`. Returns its size. */
export function writeEntryOut(to: DataView, at: number, inode: Inode, stat: FileStat): number {
  to.setUint32(at + fuse_entry_out.nodeid.offset, inode.low, true);
  to.setUint32(at + fuse_entry_out.nodeid.offset + 4, inode.high, true);
  writeU64(to, at + fuse_entry_out.generation.offset, 0);
  writeU64(to, at + fuse_entry_out.entry_valid.offset, VALID_SECONDS);
  writeU64(to, at + fuse_entry_out.attr_valid.offset, VALID_SECONDS);
  writeU64(to, at + fuse_entry_out.entry_valid_nsec.offset, 0);
  writeAttributes(to, at + fuse_entry_out.attr.offset, inode, stat);
  return fuse_entry_out.size;
}
