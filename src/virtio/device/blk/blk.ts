/** The block device (virtio 1.3 §5.2): a raw file or block device of the host as a disk. */
import * as abi from '../../../abi/virtio-blk.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import type { DiskEngineOptions } from '../../../backend/disk-engine.ts';
import { RawFile } from '../../../backend/raw-file.ts';
import { probeDiskEngine } from '../../../backend/ring-disk.ts';
import type {
  BackendFacts,
  DeviceHost,
  HandlerThread,
  QueueHandler,
  QueueSpec,
  VirtioDevice,
} from '../../device.ts';
import { type BlkHandlerOptions, MAX_RANGE_SECTORS, MAX_RANGE_SEGMENTS } from './blk-disk.ts';
import { BlkHandler } from './blk-handler.ts';

/** PCI: mass storage controller, SCSI; what Linux and other VMMs use for virtio disks. */
const PCI_CLASS_STORAGE = 0x010000;
const DEFAULT_QUEUE_SIZE = 256;
const CONFIG = abi.virtio_blk_config;

/** A disk. */
export interface BlkOptions {
  /** Short name for messages, e.g. `blk0`. */
  readonly name: string;
  readonly path: string;
  /** Default false. */
  readonly readOnly?: boolean;
  /** Request queues, 1 to 16. Default 1. */
  readonly queues?: number;
  /** At most 20 bytes of printable ASCII. Default: the name. */
  readonly serial?: string;
  /** Open with O_DIRECT. Default false. */
  readonly direct?: boolean;
  /** The block size that the guest uses: 512, 1024, 2048 or 4096 bytes. Default: 512, or what the host requires. */
  readonly blockSize?: number;
  /** Default: sync for files in memory, else io_uring where the host permits it. */
  readonly engine?: 'sync' | 'io_uring';
  /** Descriptors of each queue, a power of two. Default 256. */
  readonly queueSize?: number;
}

/** Makes the data half. @param options as in its `HandlerThread` */
export function createHandler(options: unknown): QueueHandler {
  return new BlkHandler(options as BlkHandlerOptions);
}

/**
 * Opens, locks and measures a disk, and makes its device.
 * @throws UsageError in one line, when the options or the file cannot be used
 * @throws HostError when io_uring was requested and the host does not permit it
 */
export function createBlkDevice(options: BlkOptions): VirtioDevice {
  return new BlkDevice(options);
}

/** A disk whose file is this process's. */
export interface ResizableDisk extends VirtioDevice {
  /**
   * Grows the disk, or takes the size that its file or block device got elsewhere since; the driver is notified.
   * @param bytes absent: as many as it has
   * @throws UsageError when it cannot have that size: it never shrinks; HostError when the file system has no room
   */
  resize(bytes?: number): void;
}

/** True for what `createBlkDevice` made. */
export function isResizableDisk(device: VirtioDevice): device is ResizableDisk {
  return device instanceof BlkDevice;
}

class BlkDevice implements ResizableDisk {
  readonly name: string;
  readonly deviceId = abi.VIRTIO_ID_BLOCK;
  readonly pciClass = PCI_CLASS_STORAGE;
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
  readonly thread: HandlerThread;
  readonly backend: BackendFacts;
  readonly #file: RawFile;
  /** The `writeback` field, where the data half's thread can read it without a message. */
  readonly #writeback = new Int32Array(new SharedArrayBuffer(4));
  /** As `BlkHandlerOptions.grown`. */
  readonly #grown = new BigInt64Array(new SharedArrayBuffer(16));
  #host: DeviceHost | null = null;

  constructor(options: BlkOptions) {
    const { name, path, queues = 1, queueSize = DEFAULT_QUEUE_SIZE, serial = name } = options;
    this.name = name;
    const readOnly = options.readOnly ?? false;
    const { blockSize } = options;
    this.#file = new RawFile({
      path,
      readOnly,
      direct: options.direct ?? false,
      ...(blockSize === undefined ? {} : { blockSize }),
    });
    try {
      const { geometry } = this.#file;
      const disk: DiskEngineOptions = {
        fd: this.#file.fd,
        engine: options.engine ?? (geometry.inMemory ? 'sync' : 'auto'),
        blockDevice: geometry.blockDevice,
        direct: this.#file.direct,
      };
      probeDiskEngine(disk);
      const calls = disk.engine === 'sync' ? 'preadv, pwritev' : 'io_uring_enter';
      this.backend = { name: path, calls };
      const specs: QueueSpec[] = [];
      for (let i = 0; i < queues; i++) specs.push({ name: `requestq${i + 1}`, maxSize: queueSize });
      this.queues = specs;
      this.features = offeredFeatures(readOnly, geometry.discard);
      this.config = initialConfig(this.#file, queues, queueSize);
      this.configWriteMask = new Uint8Array(CONFIG.size);
      this.configWriteMask[CONFIG.writeback.offset] = 0xff;
      const handlerOptions: BlkHandlerOptions = {
        disk,
        size: geometry.size,
        fileSize: geometry.fileSize,
        grown: this.#grown.buffer as SharedArrayBuffer,
        readOnly,
        id: serial,
        writeback: this.#writeback.buffer as SharedArrayBuffer,
        chainLength: queueSize,
      };
      const module = new URL('./blk.js', import.meta.url).href;
      this.thread = { kind: 'worker', module, options: handlerOptions };
      Atomics.store(this.#writeback, 0, 1);
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  createHandler(): QueueHandler {
    const { thread } = this;
    return createHandler('options' in thread ? thread.options : undefined);
  }

  /** §5.2.5: only `writeback` can be written; 0 is writethrough. */
  configWritten(): void {
    const writeback = this.#host?.readConfig()[CONFIG.writeback.offset] === 0 ? 0 : 1;
    const before = Atomics.exchange(this.#writeback, 0, writeback);
    if (before === 1 && writeback === 0) this.#host?.post({ flush: true });
  }

  /** §5.2.5: the cache mode after a reset is writeback. */
  reset(): void {
    Atomics.store(this.#writeback, 0, 1);
    this.#host?.updateConfig((config) => config.setUint8(CONFIG.writeback.offset, 1));
  }

  resize(bytes?: number): void {
    const before = this.#file.geometry.size;
    this.#file.resize(bytes);
    const { size, fileSize } = this.#file.geometry;
    if (size === before) return;
    // The data half knows it before the driver does, which is notified (§5.2.5).
    Atomics.store(this.#grown, 1, BigInt(fileSize));
    Atomics.store(this.#grown, 0, BigInt(size));
    const update = (config: DataView): void =>
      config.setBigUint64(CONFIG.capacity.offset, BigInt(size / abi.SECTOR_SIZE), true);
    if (this.#host !== null) this.#host.updateConfig(update);
    else update(new DataView(this.config.buffer));
  }

  close(): void {
    this.#file.close();
  }
}

function offeredFeatures(readOnly: boolean, discard: boolean): bigint {
  const features = [
    abi.VIRTIO_BLK_F_SEG_MAX,
    abi.VIRTIO_BLK_F_BLK_SIZE,
    abi.VIRTIO_BLK_F_FLUSH,
    abi.VIRTIO_BLK_F_TOPOLOGY,
    abi.VIRTIO_BLK_F_CONFIG_WCE,
    abi.VIRTIO_BLK_F_MQ,
  ];
  if (readOnly) features.push(abi.VIRTIO_BLK_F_RO);
  else features.push(abi.VIRTIO_BLK_F_WRITE_ZEROES);
  if (!readOnly && discard) features.push(abi.VIRTIO_BLK_F_DISCARD);
  return featureSet(...features);
}

function initialConfig(file: RawFile, queues: number, queueSize: number): Uint8Array {
  const { size, logicalBlockSize, physicalBlockSize, discard } = file.geometry;
  const bytes = new Uint8Array(CONFIG.size);
  const view = new DataView(bytes.buffer);
  const blockSectors = physicalBlockSize / abi.SECTOR_SIZE;
  view.setBigUint64(CONFIG.capacity.offset, BigInt(size / abi.SECTOR_SIZE), true);
  // A chain has one descriptor for the header and one for the status besides the data.
  view.setUint32(CONFIG.seg_max.offset, Math.max(queueSize - 2, 1), true);
  view.setUint32(CONFIG.blk_size.offset, logicalBlockSize, true);
  view.setUint8(CONFIG.physical_block_exp.offset, Math.log2(physicalBlockSize / logicalBlockSize));
  view.setUint16(CONFIG.min_io_size.offset, physicalBlockSize / logicalBlockSize, true);
  view.setUint8(CONFIG.writeback.offset, 1);
  view.setUint16(CONFIG.num_queues.offset, queues, true);
  if (file.readOnly) return bytes;
  view.setUint32(CONFIG.max_write_zeroes_sectors.offset, MAX_RANGE_SECTORS, true);
  view.setUint32(CONFIG.max_write_zeroes_seg.offset, MAX_RANGE_SEGMENTS, true);
  view.setUint8(CONFIG.write_zeroes_may_unmap.offset, discard ? 1 : 0);
  if (!discard) return bytes;
  view.setUint32(CONFIG.max_discard_sectors.offset, MAX_RANGE_SECTORS, true);
  view.setUint32(CONFIG.max_discard_seg.offset, MAX_RANGE_SEGMENTS, true);
  view.setUint32(CONFIG.discard_sector_alignment.offset, blockSectors, true);
  return bytes;
}
