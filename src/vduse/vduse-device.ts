/** A VDUSE device of this host's kernel, as the process that implements it sees it (linux/vduse.h). */
import { EAGAIN, EBUSY, ENOENT } from '../abi/errno.ts';
import { O_NOFOLLOW } from '../abi/files.ts';
import * as abi from '../abi/vduse.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { HostError, UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

const CONTROL = '/dev/vduse/control';
/** Red Hat's PCI vendor ID: that of virtio devices. */
const VENDOR_ID = 0x1af4;
/** Alignment of rings, which modern drivers ignore. */
const VQ_ALIGN = 4096;
const LAST_ADDRESS = 0xffff_ffff_ffff_ffffn;

/** ioctl(2), read(2), write(2) and open(2); tests substitute a kernel of their own. */
export type VduseKernel = Pick<typeof sys, 'ioctl' | 'read' | 'write' | 'open'>;

/** What a device is made with. */
export interface VduseShape {
  readonly deviceId: number;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
}

/** A queue as its driver set it up. */
export interface VduseQueue {
  readonly size: number;
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  readonly ready: boolean;
  /** Where it starts, as the driver's side set it, in the form of `vringBase`. */
  readonly base: number;
}

/** A range of I/O addresses, and the file that holds its bytes. */
export interface IotlbEntry {
  readonly iova: number;
  /** Bytes. */
  readonly size: number;
  readonly file: Fd;
  readonly fileOffset: number;
  readonly readOnly: boolean;
}

/** What the kernel asks for. The answer is due within 30 s, or the device is dead to it. */
export type VduseRequest = { readonly id: number } & (
  | { readonly type: 'vq-state'; readonly queue: number }
  | { readonly type: 'status'; readonly status: number }
  | { readonly type: 'iotlb' }
  | { readonly type: 'unknown' }
);

/**
 * Exists from its making to `close`, or, when the process is killed, until another one continues with it. What binds to it is
 * vDPA's matter: `vdpa dev add`.
 */
export class VduseDevice extends Closeable {
  readonly name: string;
  /** It is one that a killed process left, with the driver that it has. */
  readonly resumed: boolean;
  readonly #kernel: VduseKernel;
  readonly #control: Fd;
  readonly #fd: Fd;
  #isRemoved = false;

  /**
   * @throws UsageError when the host has no VDUSE, denies access, or another process serves a device of that name; HostError
   *   when the kernel refuses what the device is
   */
  constructor(name: string, shape: VduseShape, kernel: VduseKernel = sys) {
    super();
    this.name = name;
    this.#kernel = kernel;
    if (!/^[\w.-]{1,64}$/.test(name) || name === 'control' || /^\.+$/.test(name)) {
      throw new UsageError(
        'E_VDUSE',
        `${JSON.stringify(name)} cannot be the name of a VDUSE device`,
        'use 1 to 64 letters, digits, dots, dashes, and underscores',
      );
    }
    using stack = new CleanupStack();
    this.#control = stack.use(openControl(kernel));
    const version = new NativeMemory(8);
    this.#check(this.#control, abi.VDUSE_SET_API_VERSION, version, 'VDUSE_SET_API_VERSION');
    this.resumed = !this.#create(shape);
    if (!this.resumed) stack.defer(() => this.#destroy());
    this.#fd = stack.use(this.#open());
    if (!this.resumed) {
      for (const [index, size] of shape.queueSizes.entries()) {
        const queue = new StructMemory(abi.vduse_vq_config);
        queue.set('index', index);
        queue.set('max_size', size);
        this.#check(this.#fd, abi.VDUSE_VQ_SETUP, queue, 'VDUSE_VQ_SETUP');
      }
    }
    stack.move();
  }

  /** Readable when a request waits. */
  get fd(): number {
    return this.#fd.fd;
  }

  /** The next request; undefined when none waits. @throws HostError */
  next(): VduseRequest | undefined {
    const request = new StructMemory(abi.vduse_dev_request);
    const length = this.#kernel.read(this.fd, request.address, abi.vduse_dev_request.size);
    if (length < 0) {
      if (length === -EAGAIN) return undefined;
      sys.check(length, 'read', this.name);
    }
    const id = request.getNumber('request_id');
    const body = abi.vduse_dev_request.padding.offset;
    switch (request.getNumber('type')) {
      case abi.VDUSE_GET_VQ_STATE:
        return { id, type: 'vq-state', queue: request.view.getUint32(body, true) };
      case abi.VDUSE_SET_STATUS:
        return { id, type: 'status', status: request.view.getUint8(body) };
      case abi.VDUSE_UPDATE_IOTLB:
        return { id, type: 'iotlb' };
      default:
        return { id, type: 'unknown' };
    }
  }

  /**
   * Answers a request, unless the kernel no longer waits for it: the process that caused it was killed.
   * @param state of the queue, for VDUSE_GET_VQ_STATE
   * @throws HostError
   */
  answer(
    id: number,
    ok: boolean,
    state?: { readonly queue: number; readonly packed: boolean; readonly base: number },
  ): void {
    const response = new StructMemory(abi.vduse_dev_response);
    response.set('request_id', id);
    response.set('result', ok ? abi.VDUSE_REQ_RESULT_OK : abi.VDUSE_REQ_RESULT_FAILED);
    if (state !== undefined) {
      const at = abi.vduse_dev_response.padding.offset;
      const { index, last_avail_counter: first } = abi.vduse_vq_state;
      response.view.setUint32(at + index.offset, state.queue, true);
      const words = state.packed ? packedWords(state.base) : [state.base];
      words.forEach((word, i) => {
        response.view.setUint16(at + first.offset + 2 * i, word, true);
      });
    }
    const length = this.#kernel.write(this.fd, response.address, abi.vduse_dev_response.size);
    if (length !== -ENOENT) sys.check(length, 'write', this.name);
  }

  /** The kernel has waited for an answer in vain. It takes no other from then on. */
  get isGivenUp(): boolean {
    const features = new NativeMemory(8);
    return this.#kernel.ioctl(this.fd, abi.VDUSE_DEV_GET_FEATURES, features.address) < 0;
  }

  /** The negotiated features. @throws HostError */
  features(): bigint {
    const features = new NativeMemory(8);
    this.#check(this.#fd, abi.VDUSE_DEV_GET_FEATURES, features, 'VDUSE_DEV_GET_FEATURES');
    return features.view.getBigUint64(0, true);
  }

  /** A queue. @throws HostError */
  queue(index: number, packed: boolean): VduseQueue {
    const info = new StructMemory(abi.vduse_vq_info);
    info.set('index', index);
    this.#check(this.#fd, abi.VDUSE_VQ_GET_INFO, info, 'VDUSE_VQ_GET_INFO');
    const position = (side: 'avail' | 'used'): number =>
      ((info.getNumber(`last_${side}_counter`) & 1) << 15) |
      (info.getNumber(`last_${side}_idx`) & 0x7fff);
    return {
      size: info.getNumber('num'),
      descriptorArea: info.getNumber('desc_addr'),
      driverArea: info.getNumber('driver_addr'),
      deviceArea: info.getNumber('device_addr'),
      ready: info.getNumber('ready') !== 0,
      base: packed
        ? (position('avail') | (position('used') << 16)) >>> 0
        : info.getNumber('last_avail_counter'),
    };
  }

  /** Has the kernel signal an eventfd for the driver's notifications; -1 for none. @throws HostError */
  setKick(index: number, fd: number): void {
    const kick = new StructMemory(abi.vduse_vq_eventfd);
    kick.set('index', index);
    kick.set('fd', fd);
    this.#check(this.#fd, abi.VDUSE_VQ_SETUP_KICKFD, kick, 'VDUSE_VQ_SETUP_KICKFD');
  }

  /**
   * Interrupts the driver for a queue. A queue that is not ready is not interrupted.
   * @returns false when the kernel refuses it: its driver has not set DRIVER_OK
   */
  interrupt(index: number): boolean {
    const queue = new NativeMemory(4);
    queue.view.setUint32(0, index, true);
    return this.#kernel.ioctl(this.fd, abi.VDUSE_VQ_INJECT_IRQ, queue.address) >= 0;
  }

  /**
   * Writes the configuration space, and interrupts the driver for it.
   * @returns whether there is a driver that has set DRIVER_OK
   * @throws HostError
   */
  setConfig(config: Uint8Array): boolean {
    const data = new StructMemory(abi.vduse_config_data, config.length);
    data.set('length', config.length);
    data.bytes.set(config, abi.vduse_config_data.size);
    this.#check(this.#fd, abi.VDUSE_DEV_SET_CONFIG, data, 'VDUSE_DEV_SET_CONFIG');
    // No call of the kernel's reads the status, but it takes no such interrupt without DRIVER_OK.
    return this.#kernel.ioctl(this.fd, abi.VDUSE_DEV_INJECT_CONFIG_IRQ, 0) >= 0;
  }

  /**
   * What the I/O addresses mean now, lowest first.
   * @returns entries whose files are the caller's
   * @throws HostError
   */
  iotlb(most: number): IotlbEntry[] {
    const entries: IotlbEntry[] = [];
    using stack = new CleanupStack();
    for (let from = 0n; entries.length < most; ) {
      const entry = new StructMemory(abi.vduse_iotlb_entry);
      entry.set('start', from);
      entry.set('last', LAST_ADDRESS);
      const fd = this.#kernel.ioctl(this.fd, abi.VDUSE_IOTLB_GET_FD, entry.address);
      // EPERM: there is none from there on.
      if (fd < 0) break;
      const [start, last] = [entry.get('start'), entry.get('last')];
      entries.push({
        iova: Number(start),
        size: Number(last - start + 1n),
        file: stack.use(new Fd(fd)),
        fileOffset: entry.getNumber('offset'),
        readOnly: entry.getNumber('perm') === abi.VDUSE_ACCESS_RO,
      });
      if (last === LAST_ADDRESS) break;
      from = last + 1n;
    }
    stack.move();
    return entries;
  }

  /** The device must not be a vDPA device any more (`vdpa dev del`); else it outlives this process. */
  close(): void {
    this.#fd.close();
    this.#isRemoved = this.#destroy();
    this.#control.close();
  }

  /** It is closed, and did not outlive that. */
  get isRemoved(): boolean {
    return this.#isRemoved;
  }

  /** @returns false when there is one already, which is a vDPA device */
  #create({ deviceId, features, queueSizes, config }: VduseShape): boolean {
    const device = new StructMemory(abi.vduse_dev_config, config.length);
    device.bytes.set(Buffer.from(this.name));
    device.set('vendor_id', VENDOR_ID);
    device.set('device_id', deviceId);
    device.set('features', features);
    device.set('vq_num', queueSizes.length);
    device.set('vq_align', VQ_ALIGN);
    device.set('config_size', config.length);
    device.bytes.set(config, abi.vduse_dev_config.size);
    const create = (): void =>
      this.#check(this.#control, abi.VDUSE_CREATE_DEV, device, 'VDUSE_CREATE_DEV');
    try {
      create();
    } catch (error) {
      if (!(error instanceof HostError) || error.code !== 'EEXIST') throw error;
      // What a killed process left; the kernel keeps one that is a vDPA device.
      if (!this.#destroy()) return false;
      create();
    }
    return true;
  }

  #open(): Fd {
    const path = `/dev/vduse/${this.name}`;
    const flags = sys.O_RDWR | sys.O_CLOEXEC | sys.O_NONBLOCK | O_NOFOLLOW;
    const fd = this.#kernel.open(path, flags);
    if (fd === -EBUSY) {
      throw new UsageError(
        'E_VDUSE',
        `another process serves the VDUSE device ${this.name}`,
        'use another name',
      );
    }
    return new Fd(sys.check(fd, 'open', path));
  }

  /** @returns whether the kernel has removed it */
  #destroy(): boolean {
    const name = new NativeMemory(abi.VDUSE_NAME_MAX);
    name.bytes.set(Buffer.from(this.name));
    return this.#kernel.ioctl(this.#control.fd, abi.VDUSE_DESTROY_DEV, name.address) >= 0;
  }

  #check(fd: Fd, request: number, argument: NativeMemory, name: string): void {
    sys.check(this.#kernel.ioctl(fd.fd, request, argument.address), name, this.name);
  }
}

/** The wrap counters and positions of a packed ring (§2.8.1). */
function packedWords(base: number): number[] {
  return [base & 0xffff, base >>> 16].flatMap((word) => [word >>> 15, word & 0x7fff]);
}

function openControl(kernel: VduseKernel): Fd {
  const fd = kernel.open(CONTROL, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd >= 0) return new Fd(fd);
  const code = sys.errnoName(-fd);
  const isMissing = code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV';
  throw isMissing
    ? new UsageError(
        'E_VDUSE',
        `this kernel has no ${CONTROL}`,
        'load its modules with "modprobe -a vduse virtio_vdpa" (or vhost_vdpa, for guests)',
      )
    : new UsageError('E_VDUSE', `cannot open ${CONTROL}: ${code}`, 'run as root');
}
