/** The file system device (virtio 1.3 §5.11): a folder of the host, as guests mount it with virtiofs. */
import { O_CLOEXEC, O_DIRECTORY, O_PATH } from '../../../abi/files.ts';
import { VIRTIO_ID_FS, virtio_fs_config } from '../../../abi/fuse.ts';
import { type Reason, UsageError } from '../../../host/errors.ts';
import { Fd } from '../../../host/fd.ts';
import { descriptorLimit } from '../../../host/file-system.ts';
import * as sys from '../../../host/syscall.ts';
import type {
  BackendFacts,
  HandlerThread,
  QueueHandler,
  QueueSpec,
  VirtioDevice,
} from '../../device.ts';
import type { DeviceKind } from '../../frontend-device.ts';
import { DescriptorTable } from './descriptor-table.ts';
import type { FsHandlerOptions } from './file-system.ts';
import { FsHandler } from './fs-handler.ts';
import type { XattrMode } from './xattr-names.ts';

/** PCI: mass storage controller, other. */
const PCI_CLASS_STORAGE_OTHER = 0x01_8000;
const DEFAULT_QUEUE_SIZE = 1024;
/** Inodes and open files that a guest holds, whatever the host permits. */
const MOST_DESCRIPTORS = 2 ** 20;

/** A shared folder. */
export interface FsOptions {
  /** Short name for messages, e.g. `fs0`. */
  readonly name: string;
  /** The tag that the guest mounts it by, 1 to 36 bytes. */
  readonly tag: string;
  /** The folder. */
  readonly source: string;
  /** Default false. */
  readonly readOnly?: boolean;
  /** Share file systems mounted below the folder as well, as separate ones. Default false. */
  readonly submounts?: boolean;
  /**
   * How extended attributes that have a meaning on the host, such as `security.capability`, are stored:
   * under names that have none (`mapped`), or unchanged (`passthrough`). Default `mapped`.
   */
  readonly xattr?: XattrMode;
  /** The guest may make device nodes on the host, if the process may (CAP_MKNOD). Default false. */
  readonly mknod?: boolean;
  /** Request queues, 1 to 16. Default 1. */
  readonly queues?: number;
  /** Descriptors of each queue, a power of two. Default 1024. */
  readonly queueSize?: number;
  /** Files that the guest may hold at a time. Default: half of the process's limit. */
  readonly maxFiles?: number;
  /** Devices of this kind in the process, which share that half. Default 1. */
  readonly devices?: number;
}

/** Makes the data half. @param options as in its `HandlerThread` */
export function createHandler(options: unknown): QueueHandler {
  return new FsHandler(options as FsHandlerOptions);
}

/**
 * Opens a folder, and makes its device.
 * @throws UsageError in one line, when the options or the folder cannot be used
 */
export function createFsDevice(options: FsOptions): VirtioDevice {
  return new FsDevice(options);
}

/**
 * A file system in another process; its configuration is the frontend's.
 * @param tag at most 36 bytes in UTF-8
 * @param requestQueues in addition to the high priority queue
 */
export function fsKind(tag: string, requestQueues: number, queueSize: number): DeviceKind {
  const queues = queueSpecs(requestQueues, queueSize);
  return {
    deviceId: VIRTIO_ID_FS,
    pciClass: PCI_CLASS_STORAGE_OTHER,
    // VIRTIO_FS_F_NOTIFICATION, the only one, adds a queue whose buffers have no end.
    backendFeatures: 0n,
    ownFeatures: 0n,
    queues,
    servedQueues: queues.length,
    config: initialConfig(tag, requestQueues),
  };
}

function queueSpecs(requestQueues: number, maxSize: number): QueueSpec[] {
  const requests = Array.from({ length: requestQueues }, (_, i) => `requestq${i + 1}`);
  return ['hiprio', ...requests].map((name) => ({ name, maxSize }));
}

function initialConfig(tag: string, requestQueues: number): Uint8Array {
  const config = new Uint8Array(virtio_fs_config.size);
  config.set(Buffer.from(tag), virtio_fs_config.tag.offset);
  const { offset } = virtio_fs_config.num_request_queues;
  new DataView(config.buffer).setUint32(offset, requestQueues, true);
  return config;
}

class FsDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = VIRTIO_ID_FS;
  readonly pciClass = PCI_CLASS_STORAGE_OTHER;
  /** VIRTIO_FS_F_NOTIFICATION, the only one, is not offered. */
  readonly features = 0n;
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly thread: HandlerThread;
  readonly backend: BackendFacts;
  readonly #root: Fd;
  readonly #descriptors: DescriptorTable;

  constructor(options: FsOptions) {
    const { name, tag, queues = 1, queueSize = DEFAULT_QUEUE_SIZE } = options;
    this.name = name;
    this.queues = queueSpecs(queues, queueSize);
    this.config = initialConfig(tag, queues);
    this.backend = { name: options.source, calls: 'openat, preadv, pwritev' };
    this.#root = openFolder(options.source);
    const most = options.maxFiles ?? Math.floor(descriptorLimit() / 2 / (options.devices ?? 1));
    const files = Math.max(2, Math.min(most, MOST_DESCRIPTORS));
    this.#descriptors = new DescriptorTable(files);
    const handlerOptions: FsHandlerOptions = {
      rootFd: this.#root.fd,
      readOnly: options.readOnly ?? false,
      submounts: options.submounts ?? false,
      xattr: options.xattr ?? 'mapped',
      mknod: options.mknod ?? false,
      descriptors: this.#descriptors.shared,
      // Names that the guest caches leave room for files that it opens.
      maxInodes: Math.ceil(files * 0.75),
      maxHandles: files,
    };
    const module = new URL('./fs.js', import.meta.url).href;
    this.thread = { kind: 'worker', module, options: handlerOptions };
  }

  createHandler(): QueueHandler {
    const { thread } = this;
    return createHandler('options' in thread ? thread.options : undefined);
  }

  /** The guest's next kernel knows nothing of what the last one held. */
  reset(): void {
    this.#descriptors.closeAll();
  }

  close(): void {
    this.#descriptors.closeAll();
    this.#root.close();
  }
}

const reasons: Readonly<Record<string, Reason>> = {
  ENOENT: ['no such folder', 'create it with: mkdir -p PATH'],
  ENOTDIR: ['is not a folder'],
  EACCES: ['permission denied', 'change its mode, or run as its owner'],
};

function openFolder(source: string): Fd {
  const fd = sys.open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) return new Fd(fd);
  const name = sys.errnoName(-fd);
  const [why, remedy] = reasons[name] ?? [`cannot be opened (${name})`];
  const what = `shared folder ${source}: ${why}`;
  throw new UsageError(`E_FS_${name}`, what, remedy?.replace('PATH', source));
}
