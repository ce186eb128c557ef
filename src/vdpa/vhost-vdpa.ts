/**
 * An open /dev/vhost-vdpa-N: a vDPA device of this host, for one process at a time (linux/vhost.h). Calls can take long,
 * since a parent in userspace, by VDUSE, has 30 s to answer.
 */
import { existsSync } from 'node:fs';
import { EBUSY, EFAULT, ENOMEM, ENOTTY } from '../abi/errno.ts';
import * as vhost from '../abi/vhost.ts';
import * as abi from '../abi/vhost-vdpa.ts';
import { featureSet, hasFeature } from '../abi/virtio-ring.ts';
import { AsyncCleanupStack, AsyncCloseable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import { type PoolCalls, poolCalls } from '../host/pool-calls.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { encodeIotlb } from '../vhost/iotlb-message.ts';
import type { ParentAddress } from '../virtio/frontend-device.ts';
import type { QueueConfig } from '../virtio/queue/virtqueue.ts';
import { MadeParent } from './made-parent.ts';
import { NotifyPages } from './notify-pages.ts';

/** Where the kernel has its driver for vDPA devices. */
const DRIVER = '/sys/bus/vdpa/drivers/vhost_vdpa';
/** Of the backend features, those that are used here. */
const USED_FEATURES = featureSet(
  vhost.VHOST_BACKEND_F_IOTLB_MSG_V2,
  abi.VHOST_BACKEND_F_IOTLB_BATCH,
  abi.VHOST_BACKEND_F_SUSPEND,
  abi.VHOST_BACKEND_F_RESUME,
);

const IOTLB_MESSAGES: Readonly<Record<number, string>> = {
  [vhost.VHOST_IOTLB_UPDATE]: 'VHOST_IOTLB_UPDATE',
  [vhost.VHOST_IOTLB_INVALIDATE]: 'VHOST_IOTLB_INVALIDATE',
  [abi.VHOST_IOTLB_BATCH_BEGIN]: 'VHOST_IOTLB_BATCH_BEGIN',
  [abi.VHOST_IOTLB_BATCH_END]: 'VHOST_IOTLB_BATCH_END',
};

/** What the parent is and can do; it never changes. */
export interface VdpaProperties {
  readonly deviceId: number;
  /** Virtio feature bits. */
  readonly features: bigint;
  readonly backendFeatures: bigint;
  readonly queueCount: number;
  /** The most descriptors of a queue. */
  readonly queueSize: number;
  readonly configSize: number;
  /** I/O addresses that it can use. */
  readonly firstAddress: bigint;
  readonly lastAddress: bigint;
}

/** Memory that a parent may access. */
export interface ParentMapping {
  /** Where the parent finds it. */
  readonly iova: number;
  /** Bytes. */
  readonly size: number;
  /** Where this process has it. */
  readonly address: number;
  /** VHOST_ACCESS_ bits. */
  readonly access: number;
}

/** Open, nothing else has the parent; it is reset when opened and closed. */
export class VhostVdpa extends AsyncCloseable {
  readonly path: string;
  readonly properties: VdpaProperties;
  readonly #calls: PoolCalls;
  readonly #pages: NotifyPages | undefined;
  /** Removed once the file is closed. */
  readonly #made: MadeParent | undefined;
  #fd: number;
  /** What its IOTLB holds: sizes by address. */
  readonly #mapped = new Map<number, number>();

  /**
   * @param calls tests substitute a kernel of their own
   * @throws UsageError when there is no such device, it cannot be made, or it is not available; HostError
   */
  static async open(address: ParentAddress, calls: PoolCalls = poolCalls): Promise<VhostVdpa> {
    await using stack = new AsyncCleanupStack();
    const made = 'path' in address ? undefined : stack.use(await MadeParent.make(address));
    const path = 'path' in address ? address.path : (made?.path ?? '');
    const fd = await calls.open(path, sys.O_RDWR | sys.O_CLOEXEC | sys.O_NONBLOCK);
    if (fd < 0) throw notOpened(path, -fd);
    stack.defer(async () => {
      await calls.close(fd);
    });
    const properties = await readProperties(path, fd, calls);
    const pages = NotifyPages.map(fd, properties.queueCount);
    stack.move();
    return new VhostVdpa(path, fd, calls, properties, made, pages);
  }

  private constructor(
    path: string,
    fd: number,
    calls: PoolCalls,
    properties: VdpaProperties,
    made: MadeParent | undefined,
    pages: NotifyPages | undefined,
  ) {
    super();
    this.#pages = pages;
    this.#made = made;
    this.path = path;
    this.#fd = fd;
    this.#calls = calls;
    this.properties = properties;
  }

  /** Host addresses of pages that take notifications, by queue; undefined: only eventfds do. */
  get notifyPages(): readonly number[] | undefined {
    return this.#pages?.addresses;
  }

  /** Whether it can stop and report where. */
  get canSuspend(): boolean {
    return hasFeature(this.properties.backendFeatures, abi.VHOST_BACKEND_F_SUSPEND);
  }

  /** Whether it continues by itself after that. */
  get canResume(): boolean {
    return (
      this.canSuspend && hasFeature(this.properties.backendFeatures, abi.VHOST_BACKEND_F_RESUME)
    );
  }

  /** @throws HostError */
  async status(): Promise<number> {
    const status = new NativeMemory(1);
    await this.#control('VHOST_VDPA_GET_STATUS', abi.VHOST_VDPA_GET_STATUS, status);
    return status.view.getUint8(0);
  }

  /** Virtio 1.3 §2.1; 0 resets it. @throws HostError */
  async setStatus(bits: number): Promise<void> {
    const status = new NativeMemory(1);
    status.view.setUint8(0, bits);
    await this.#control('VHOST_VDPA_SET_STATUS', abi.VHOST_VDPA_SET_STATUS, status);
  }

  /** Accepts features. @throws HostError */
  async setFeatures(features: bigint): Promise<void> {
    const bits = new NativeMemory(8);
    bits.view.setBigUint64(0, features, true);
    await this.#control('VHOST_SET_FEATURES', vhost.VHOST_SET_FEATURES, bits);
  }

  /** The first bytes of its configuration space; zeroes follow it. @throws HostError */
  async getConfig(length: number): Promise<Uint8Array> {
    const has = Math.min(length, this.properties.configSize);
    const config = new Uint8Array(length);
    if (has === 0) return config;
    const read = new StructMemory(abi.vhost_vdpa_config, has);
    read.set('len', has);
    await this.#control('VHOST_VDPA_GET_CONFIG', abi.VHOST_VDPA_GET_CONFIG, read);
    config.set(read.bytes.subarray(abi.vhost_vdpa_config.size));
    return config;
  }

  /** Writes a part of its configuration space. @throws HostError */
  async setConfig(offset: number, bytes: Uint8Array): Promise<void> {
    const write = new StructMemory(abi.vhost_vdpa_config, bytes.length);
    write.set('off', offset);
    write.set('len', bytes.length);
    write.bytes.set(bytes, abi.vhost_vdpa_config.size);
    await this.#control('VHOST_VDPA_SET_CONFIG', abi.VHOST_VDPA_SET_CONFIG, write);
  }

  /** Has it signal an eventfd when its configuration or status changes; -1 for none. @throws HostError */
  async setConfigCall(fd: number): Promise<void> {
    const call = new NativeMemory(4);
    call.view.setInt32(0, fd, true);
    await this.#control('VHOST_VDPA_SET_CONFIG_CALL', abi.VHOST_VDPA_SET_CONFIG_CALL, call);
  }

  /** Guest RAM at guest physical addresses. @throws UsageError when it cannot reach all of it */
  wholeRam(memory: GuestMemory): readonly ParentMapping[] {
    const { firstAddress, lastAddress } = this.properties;
    for (const { gpa, size } of memory.regions) {
      if (BigInt(gpa) >= firstAddress && BigInt(gpa + size) - 1n <= lastAddress) continue;
      const text = [firstAddress, lastAddress].map((at) => `0x${at.toString(16)}`);
      throw new UsageError(
        'E_VDPA',
        `${this.path} reaches addresses ${text.join(' to ')} only, not all of the guest's RAM`,
        'reduce --memory',
      );
    }
    return memory.regions.map(({ gpa, size, offset }) => ({
      iova: gpa,
      size,
      address: memory.address + offset,
      access: vhost.VHOST_ACCESS_RW,
    }));
  }

  /** Lets it access memory. @throws HostError */
  async map(mappings: readonly ParentMapping[]): Promise<void> {
    await this.#batch(mappings.length, async () => {
      for (const { iova, size, address, access } of mappings) {
        await this.#iotlb(vhost.VHOST_IOTLB_UPDATE, iova, size, address, access);
        this.#mapped.set(iova, size);
      }
    });
  }

  /**
   * Takes away what is mapped in a range, in whole mappings: one by one, as kernels may stop at the first hole.
   * @throws HostError
   */
  async unmap(start: number, length: number): Promise<void> {
    const found = this.#mapped.get(start) === length ? [start] : this.#within(start, length);
    await this.#batch(found.length, async () => {
      for (const iova of found) {
        const size = this.#mapped.get(iova) ?? 0;
        this.#mapped.delete(iova);
        await this.#iotlb(vhost.VHOST_IOTLB_INVALIDATE, iova, size);
      }
    });
  }

  /**
   * Sets a ring up, which the caller has checked, and enables it: it is served from DRIVER_OK on.
   * @param base as `vringBase`
   * @throws HostError
   */
  async setUpRing(config: QueueConfig, base: number): Promise<void> {
    const { index } = config;
    await this.#setState('VHOST_SET_VRING_NUM', vhost.VHOST_SET_VRING_NUM, index, config.size);
    await this.#setState('VHOST_SET_VRING_BASE', vhost.VHOST_SET_VRING_BASE, index, base);
    // I/O addresses, although the fields are named otherwise.
    const address = new StructMemory(vhost.vhost_vring_addr);
    address.set('index', index);
    address.set('desc_user_addr', config.descriptorArea);
    address.set('avail_user_addr', config.driverArea);
    address.set('used_user_addr', config.deviceArea);
    await this.#control('VHOST_SET_VRING_ADDR', vhost.VHOST_SET_VRING_ADDR, address);
    await this.setCall(index, config.callFd);
    await this.setKick(index, config.kickFd);
    const enable = abi.VHOST_VDPA_SET_VRING_ENABLE;
    await this.#setState('VHOST_VDPA_SET_VRING_ENABLE', enable, index, 1);
  }

  /** The eventfd by which a ring interrupts; negative for none. Also while it is served. @throws HostError */
  async setCall(index: number, fd: number): Promise<void> {
    await this.#setFile('VHOST_SET_VRING_CALL', vhost.VHOST_SET_VRING_CALL, index, fd);
  }

  /** The eventfd by which a ring is notified; negative for none. @throws HostError */
  async setKick(index: number, fd: number): Promise<void> {
    await this.#setFile('VHOST_SET_VRING_KICK', vhost.VHOST_SET_VRING_KICK, index, fd);
  }

  /** It serves no ring from here on. @throws HostError */
  async suspend(): Promise<void> {
    await this.#control('VHOST_VDPA_SUSPEND', abi.VHOST_VDPA_SUSPEND);
  }

  /** It serves its rings from where it was suspended. @throws HostError */
  async resume(): Promise<void> {
    await this.#control('VHOST_VDPA_RESUME', abi.VHOST_VDPA_RESUME);
  }

  /** Where a ring is, in the form of `vringBase`. @throws HostError */
  async base(index: number): Promise<number> {
    return this.#setState('VHOST_GET_VRING_BASE', vhost.VHOST_GET_VRING_BASE, index, 0);
  }

  /** Returns when the parent is reset, and free for others. */
  async close(): Promise<void> {
    const fd = this.#fd;
    this.#fd = -1;
    this.#pages?.close();
    if (fd >= 0) await this.#calls.close(fd);
    await this.#made?.close();
  }

  /** As `close`, but makes the event loop wait. */
  closeNow(): void {
    this.#pages?.close();
    if (this.#fd >= 0) sys.close(this.#fd);
    this.#fd = -1;
    this.#made?.closeNow();
  }

  #within(start: number, length: number): number[] {
    return [...this.#mapped.keys()].filter((iova) => iova >= start && iova < start + length);
  }

  /** Some parents take all that is mapped with each change, or once for a batch of them. */
  async #batch(count: number, messages: () => Promise<void>): Promise<void> {
    const { backendFeatures } = this.properties;
    const inBatch = count > 0 && hasFeature(backendFeatures, abi.VHOST_BACKEND_F_IOTLB_BATCH);
    if (inBatch) await this.#iotlb(abi.VHOST_IOTLB_BATCH_BEGIN, 0, 0);
    try {
      await messages();
    } finally {
      if (inBatch) await this.#iotlb(abi.VHOST_IOTLB_BATCH_END, 0, 0);
    }
  }

  async #iotlb(type: number, iova: number, size: number, uaddr = 0, perm = 0): Promise<void> {
    const message = encodeIotlb({ type, iova, size, uaddr, perm });
    const written = await this.#calls.write(this.#fd, message);
    sys.check(written, IOTLB_MESSAGES[type] ?? '', this.path, remedyOf(-written));
  }

  async #setState(name: string, request: number, index: number, num: number): Promise<number> {
    const state = new StructMemory(vhost.vhost_vring_state);
    state.set('index', index);
    state.set('num', num);
    await this.#control(name, request, state);
    return state.getNumber('num');
  }

  async #setFile(name: string, request: number, index: number, fd: number): Promise<void> {
    const file = new StructMemory(vhost.vhost_vring_file);
    file.set('index', index);
    file.set('fd', Math.max(fd, vhost.VHOST_FILE_UNBIND));
    await this.#control(name, request, file);
  }

  async #control(name: string, request: number, argument?: NativeMemory): Promise<void> {
    sys.check(await this.#calls.ioctl(this.#fd, request, argument), name, this.path);
  }
}

async function readProperties(path: string, fd: number, calls: PoolCalls): Promise<VdpaProperties> {
  const memory = new NativeMemory(abi.vhost_vdpa_iova_range.size);
  const control = async (name: string, request: number): Promise<DataView> => {
    sys.check(await calls.ioctl(fd, request, memory), name, path);
    return memory.view;
  };
  // The first one shows whether it is one at all.
  if ((await calls.ioctl(fd, abi.VHOST_VDPA_GET_DEVICE_ID, memory)) === -ENOTTY) {
    throw new UsageError(
      'E_VDPA',
      `${path} is not a vhost-vdpa device`,
      'they are named /dev/vhost-vdpa-0 and so on',
    );
  }
  const deviceId = memory.view.getUint32(0, true);
  sys.check(await calls.ioctl(fd, vhost.VHOST_SET_OWNER), 'VHOST_SET_OWNER', path);
  const word = async (name: string, request: number): Promise<number> =>
    (await control(name, request)).getUint32(0, true);
  const bits = async (name: string, request: number): Promise<bigint> =>
    (await control(name, request)).getBigUint64(0, true);
  const features = await bits('VHOST_GET_FEATURES', vhost.VHOST_GET_FEATURES);
  const offered = await bits('VHOST_GET_BACKEND_FEATURES', vhost.VHOST_GET_BACKEND_FEATURES);
  const backendFeatures = offered & USED_FEATURES;
  if (!hasFeature(backendFeatures, vhost.VHOST_BACKEND_F_IOTLB_MSG_V2)) {
    throw new UsageError('E_VDPA', `${path}: this kernel is too old`, 'use Linux 5.19 or later');
  }
  memory.view.setBigUint64(0, backendFeatures, true);
  await control('VHOST_SET_BACKEND_FEATURES', vhost.VHOST_SET_BACKEND_FEATURES);
  const queueCount = await word('VHOST_VDPA_GET_VQS_COUNT', abi.VHOST_VDPA_GET_VQS_COUNT);
  const configSize = await word('VHOST_VDPA_GET_CONFIG_SIZE', abi.VHOST_VDPA_GET_CONFIG_SIZE);
  const num = await control('VHOST_VDPA_GET_VRING_NUM', abi.VHOST_VDPA_GET_VRING_NUM);
  const queueSize = num.getUint16(0, true);
  const range = await control('VHOST_VDPA_GET_IOVA_RANGE', abi.VHOST_VDPA_GET_IOVA_RANGE);
  const { first, last } = abi.vhost_vdpa_iova_range;
  return {
    deviceId,
    features,
    backendFeatures,
    queueCount,
    queueSize,
    configSize,
    firstAddress: range.getBigUint64(first.offset, true),
    lastAddress: range.getBigUint64(last.offset, true),
  };
}

function notOpened(path: string, errno: number): UsageError {
  const code = sys.errnoName(errno);
  if (code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV') {
    return existsSync(DRIVER)
      ? new UsageError(
          'E_VDPA',
          `this host has no ${path}`,
          'see "vdpa dev show", and which driver of /sys/bus/vdpa/drivers has the device',
        )
      : new UsageError(
          'E_VDPA',
          `this host has no ${path}, and its kernel no vhost_vdpa`,
          'load it with "modprobe vhost_vdpa"',
        );
  }
  if (errno === EBUSY) {
    return new UsageError('E_VDPA', `${path} is in use`, 'end the other process that has it open');
  }
  return code === 'EACCES' || code === 'EPERM'
    ? new UsageError('E_VDPA', `cannot open ${path}: ${code}`, `as root run "chmod 666 ${path}"`)
    : new UsageError('E_VDPA', `cannot open ${path}: ${code}`, 'see whether its parent answers');
}

/** A parent in hardware pins guest RAM. EFAULT is what the kernel makes of more than 2048 pieces of it. */
function remedyOf(errno: number): string | undefined {
  if (errno === ENOMEM) return 'raise the limit on locked memory (ulimit -l)';
  return errno === EFAULT ? 'use huge pages (--hugepages)' : undefined;
}
