/** A disk's raw file or block device: opened, locked, measured, and grown, on the main thread. */

import { fstatSync, readFileSync, type Stats, statfsSync, statSync } from 'node:fs';
import { EAGAIN } from '../abi/errno.ts';
import { SECTOR_SIZE } from '../abi/virtio-blk.ts';
import { type Reason, UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE } from './disk-engine.ts';

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
/** `f_type` of statfs(2): TMPFS_MAGIC, RAMFS_MAGIC. */
const IN_MEMORY: readonly number[] = [0x01021994, 0x858458f6];
const O_EXCL = 0o200;
const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;
const SYS_statx = 332;
const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;
const STATX_SIZE = 256;
const STX_MASK = 0;
const STX_DIO_OFFSET_ALIGN = 156;

/** How to open a disk. */
export interface RawFileOptions {
  readonly path: string;
  readonly readOnly: boolean;
  /** Past the page cache, with O_DIRECT. */
  readonly direct: boolean;
  /** 512, 1024, 2048 or 4096. Default: 512, or what O_DIRECT or the block device demands. */
  readonly blockSize?: number;
}

/** What a disk is like; sizes in bytes. */
export interface DiskGeometry {
  /** A multiple of 512, and of an explicit block size: a read-only file is filled up with zeroes. */
  readonly size: number;
  /** Bytes that the file has: less than `size` where that was rounded up. */
  readonly fileSize: number;
  /** The smallest unit of a request: as requested, else 512 or what O_DIRECT demands. */
  readonly logicalBlockSize: number;
  /** The unit that is written without reading first. */
  readonly physicalBlockSize: number;
  /** Ranges can be discarded. */
  readonly discard: boolean;
  readonly blockDevice: boolean;
  /** The file lives in memory (tmpfs): no request ever waits for a medium. */
  readonly inMemory: boolean;
}

const reasons: Readonly<Record<string, Reason>> = {
  ENOENT: ['no such file', 'create one with: truncate -s 4G PATH'],
  ENOTDIR: ['a path component is not a directory'],
  EACCES: ['permission denied', 'change its mode, or run as its owner'],
  EPERM: ['permission denied', 'the file may be immutable (lsattr)'],
  EROFS: ['its file system is mounted read-only', 'attach the disk read-only'],
  EBUSY: ['the device is mounted or otherwise in use', 'unmount it, or attach it read-only'],
  ETXTBSY: ['it is being executed'],
  ENXIO: ['it has no device'],
  ENOMEDIUM: ['it has no medium'],
  EINVAL: ['its file system does not support O_DIRECT', 'leave direct off'],
};

function refuse(path: string, code: string, [why, remedy]: Reason): UsageError {
  return new UsageError(code, `disk ${path}: ${why}`, remedy?.replace('PATH', path));
}

const reasonFor = (errno: string): Reason => reasons[errno] ?? [`cannot be opened (${errno})`];

function open(options: RawFileOptions, blockDevice: boolean): Fd {
  const { path, readOnly, direct } = options;
  const access = readOnly ? sys.O_RDONLY : sys.O_RDWR;
  // On block devices O_EXCL keeps off what is mounted.
  const exclusive = blockDevice && !readOnly ? O_EXCL : 0;
  const flags = access | exclusive | (direct ? sys.O_DIRECT : 0) | sys.O_CLOEXEC;
  const fd = sys.open(path, flags);
  if (fd >= 0) return new Fd(fd);
  const name = sys.errnoName(-fd);
  const [why, remedy] = reasonFor(name);
  const hint = name === 'EACCES' && !readOnly ? ', or attach the disk read-only' : '';
  throw refuse(path, `E_DISK_${name}`, [why, remedy && `${remedy}${hint}`]);
}

function stat(path: string): Stats {
  try {
    return statSync(path);
  } catch (error) {
    const name = (error as NodeJS.ErrnoException).code ?? 'EIO';
    throw refuse(path, `E_DISK_${name}`, reasonFor(name));
  }
}

function lock(fd: number, options: RawFileOptions): void {
  const kind = options.readOnly ? LOCK_SH : LOCK_EX;
  const result = sys.flock(fd, kind | LOCK_NB);
  if (result !== -EAGAIN) {
    sys.check(result, 'flock', options.path);
    return;
  }
  const reason: Reason = options.readOnly
    ? ['another run is writing to it', 'stop that one first']
    : ['another run is using it', 'stop that one first, or attach the disk read-only in both'];
  throw refuse(options.path, 'E_DISK_LOCKED', reason);
}

/** The unit in which O_DIRECT wants offsets and lengths, where the kernel (6.1) reports it. */
function directAlignment(fd: number): number {
  const path = new NativeMemory(1);
  const result = new NativeMemory(STATX_SIZE);
  const { address } = result;
  const done = sys.syscall(SYS_statx, fd, path.address, AT_EMPTY_PATH, STATX_DIOALIGN, address);
  const known = done === 0 && (result.view.getUint32(STX_MASK, true) & STATX_DIOALIGN) !== 0;
  const alignment = known ? result.view.getUint32(STX_DIO_OFFSET_ALIGN, true) : 0;
  return Math.max(alignment, SECTOR_SIZE);
}

function ioctlNumber(fd: number, request: number, name: string, path: string): number {
  const memory = new NativeMemory(8);
  sys.check(sys.ioctl(fd, request, memory.address), name, path);
  return Number(memory.view.getBigUint64(0, true));
}

function deviceGeometry(fd: number, options: RawFileOptions, rdev: number): DiskGeometry {
  const { path, direct } = options;
  const natural = ioctlNumber(fd, BLKSSZGET, 'BLKSSZGET', path);
  const size = ioctlNumber(fd, BLKGETSIZE64, 'BLKGETSIZE64', path);
  const logical = logicalBlockSize({
    path,
    asked: options.blockSize,
    natural,
    direct: direct ? natural : undefined,
    size,
    fillsUp: false,
    isFile: false,
  });
  return {
    size,
    fileSize: size,
    logicalBlockSize: logical,
    physicalBlockSize: Math.max(ioctlNumber(fd, BLKPBSZGET, 'BLKPBSZGET', path), logical),
    discard: deviceDiscards(rdev),
    blockDevice: true,
    inMemory: false,
  };
}

function deviceDiscards(rdev: number): boolean {
  // makedev(3): 12 bits of major from bit 8, minor around them.
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  const queue = (of: string): string => `/sys/dev/block/${major}:${minor}/${of}queue`;
  for (const of of ['', '../']) {
    try {
      return Number(readFileSync(`${queue(of)}/discard_max_bytes`, 'utf8')) > 0;
    } catch {
      // A partition has no queue; its disk does.
    }
  }
  return false;
}

function fileGeometry(fd: number, stats: Stats, options: RawFileOptions): DiskGeometry {
  const { path, readOnly, direct } = options;
  const over = stats.size % SECTOR_SIZE;
  if (over !== 0 && !readOnly) {
    const why = `its size, ${stats.size} bytes, is not a multiple of 512`;
    throw refuse(path, 'E_DISK_SIZE', [why, 'pad it with: truncate -s %512 PATH']);
  }
  const alignment = direct ? directAlignment(fd) : undefined;
  const logical = logicalBlockSize({
    path,
    asked: options.blockSize,
    natural: alignment ?? SECTOR_SIZE,
    direct: alignment,
    size: stats.size,
    fillsUp: readOnly,
    isFile: true,
  });
  const unit = options.blockSize ?? SECTOR_SIZE;
  return {
    size: Math.ceil(stats.size / unit) * unit,
    fileSize: stats.size,
    logicalBlockSize: logical,
    physicalBlockSize: Math.max(Math.min(stats.blksize, 4096), logical),
    discard: !readOnly && punchesHoles(fd, stats.size),
    blockDevice: false,
    inMemory: IN_MEMORY.includes(statfsSync(path).type),
  };
}

/** Tries it on the block past the end, where nothing can be lost. */
function punchesHoles(fd: number, size: number): boolean {
  return sys.fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, size, 4096) === 0;
}

/** The owner of a disk's descriptor and lock. */
export class RawFile extends Fd {
  readonly path: string;
  readonly readOnly: boolean;
  readonly direct: boolean;
  readonly #options: RawFileOptions;
  #geometry: DiskGeometry;

  /**
   * Opens a raw file or block device, and locks it: writers exclude all others, readers share.
   * The lock (flock) lasts as long as the descriptor; programs that take no such lock are not
   * kept out.
   * @throws UsageError in one line with the remedy. @throws HostError
   */
  constructor(options: RawFileOptions) {
    const { path } = options;
    // Asked before the file is opened: opening a FIFO would block, and a tape would rewind.
    const kind = stat(path);
    if (kind.isDirectory()) throw refuse(path, 'E_DISK_KIND', ['is a directory']);
    if (!kind.isFile() && !kind.isBlockDevice()) {
      throw refuse(path, 'E_DISK_KIND', ['is neither a file nor a block device']);
    }
    const opened = open(options, kind.isBlockDevice());
    super(opened.fd);
    try {
      lock(opened.fd, options);
      this.path = path;
      this.readOnly = options.readOnly;
      this.direct = options.direct;
      this.#options = options;
      this.#geometry = geometryOf(opened.fd, options);
      if (this.geometry.size === 0) {
        throw refuse(path, 'E_DISK_SIZE', ['is empty', 'resize it with: truncate -s 4G PATH']);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get geometry(): DiskGeometry {
    return this.#geometry;
  }

  /**
   * Grows the file, or takes the size that it, or the block device, got elsewhere since.
   * @param wanted bytes; absent: as many as it has
   * @throws UsageError when that is fewer than before, or not a size that the disk can have; HostError when the file
   *   system has no room
   */
  resize(wanted?: number): void {
    const { path, readOnly } = this;
    const refused = (...reason: Reason): UsageError => refuse(path, 'E_DISK_RESIZE', reason);
    const before = this.geometry;
    let now = geometryOf(this.fd, this.#options);
    const size = wanted ?? now.size;
    if (size < before.size || now.size < before.size) {
      const small = Math.min(size, now.size);
      throw refused(
        `${small} bytes are fewer than the ${before.size} that the guest has: a disk in use cannot shrink`,
      );
    }
    if (size !== now.size) {
      if (now.blockDevice) {
        throw refused(
          `its device has ${now.size} bytes, not ${size}`,
          'resize that, then the disk without a size',
        );
      }
      if (readOnly) throw refused('it is attached read-only, and has no other size than its file');
      if (size < now.size) {
        throw refused(`its file has ${now.size} bytes already, and is not cut`);
      }
      const unit = Math.max(this.#options.blockSize ?? SECTOR_SIZE, SECTOR_SIZE);
      if (!Number.isSafeInteger(size) || size % unit !== 0) {
        throw refused(`${size} bytes are not a whole number of blocks of ${unit}`);
      }
      sys.check(sys.ftruncate(this.fd, size), 'ftruncate', path);
      now = geometryOf(this.fd, this.#options);
    }
    this.#geometry = { ...before, size: now.size, fileSize: now.fileSize };
  }
}

function geometryOf(fd: number, options: RawFileOptions): DiskGeometry {
  const stats = fstatSync(fd);
  return stats.isBlockDevice()
    ? deviceGeometry(fd, options, stats.rdev)
    : fileGeometry(fd, stats, options);
}

/** What guests take: Linux before 6.15 knows none above its page size. */
const SIZES: readonly number[] = [512, 1024, 2048, 4096];

/** A disk, as far as it matters. Sizes in bytes. */
export interface BlockSizeContext {
  readonly path: string;
  /** The caller's request. */
  readonly asked: number | undefined;
  /** The default. */
  readonly natural: number;
  /** The smallest unit of O_DIRECT; undefined when it is not opened so: the page cache takes any. */
  readonly direct: number | undefined;
  readonly size: number;
  /** A file whose last block may be filled up with zeroes: it is only read. */
  readonly fillsUp: boolean;
  readonly isFile: boolean;
}

/** @throws UsageError in one line, when a guest or the host does not support it */
export function logicalBlockSize(context: BlockSizeContext): number {
  const { path, asked, natural, direct, size, fillsUp, isFile } = context;
  if (asked === undefined) return natural;
  const refuse = (why: string, remedy?: string): never => {
    throw new UsageError('E_DISK_BLOCK_SIZE', `disk ${path}: ${why}`, remedy);
  };
  if (!SIZES.includes(asked)) {
    refuse(`the block size must be 512, 1024, 2048, or 4096, not ${asked}`);
  }
  if (direct !== undefined && asked < direct) {
    refuse(
      `O_DIRECT needs blocks of at least ${direct} bytes there, not ${asked}`,
      `leave direct off, or set block-size=${direct}`,
    );
  }
  if (size % asked !== 0 && !fillsUp) {
    const remedy = isFile ? `pad it with: truncate -s %${asked} ${path}` : 'use a smaller one';
    refuse(`its size, ${size} bytes, is not a multiple of the block size ${asked}`, remedy);
  }
  return asked;
}
