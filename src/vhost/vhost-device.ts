/** One open vhost device: rings that the host kernel serves (linux/vhost.h). */
import { EAGAIN } from '../abi/errno.ts';
import * as abi from '../abi/vhost.ts';
import { featureSet, hasFeature, VIRTIO_F_RING_PACKED } from '../abi/virtio-ring.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import { locateRings } from '../virtio/queue/create-virtqueue.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../virtio/queue/virtqueue.ts';
import { decodeIotlb, encodeIotlb, type IotlbMessage, iotlbBuffer } from './iotlb-message.ts';

/** System calls on it; tests substitute a kernel of their own. */
export type VhostCalls = Pick<typeof sys, 'ioctl' | 'read' | 'write'>;

/** A ring that was set up, until it is taken back. */
interface Ring {
  readonly config: QueueConfig;
  /** Offset of the device area in guest RAM. */
  readonly used: number;
}

/** Rings are numbered within the vhost device. */
export class VhostDevice extends Closeable {
  /** Feature bits that the kernel can serve. */
  readonly features: bigint;
  readonly #path: string;
  readonly #fd: Fd;
  readonly #calls: VhostCalls;
  readonly #rings = new Map<number, Ring>();
  readonly #received = iotlbBuffer();
  #memory: GuestMemory | undefined;
  #packed = false;
  /** Rings are where the driver says, behind an IOMMU; else where that is in this process. */
  #translated = false;

  /**
   * @param path e.g. `/dev/vhost-net`
   * @param module the kernel module that provides it
   * @throws UsageError when the host has none, or denies access
   */
  static open(path: string, module: string): VhostDevice {
    const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
    if (fd >= 0) return new VhostDevice(path, new Fd(fd));
    const code = sys.errnoName(-fd);
    const missing = code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV';
    throw new UsageError(
      'E_VHOST',
      missing ? `this kernel has no ${path}` : `cannot open ${path}: ${code}`,
      missing
        ? `load its module with "modprobe ${module}", or use vhost=off`
        : `as root run "chmod 666 ${path}", or use vhost=off`,
    );
  }

  /** @throws HostError when the kernel refuses */
  constructor(path: string, fd: Fd, calls: VhostCalls = sys) {
    super();
    this.#path = path;
    this.#fd = fd;
    this.#calls = calls;
    try {
      this.control(abi.VHOST_SET_OWNER, 0, 'VHOST_SET_OWNER');
      const features = new NativeMemory(8);
      this.control(abi.VHOST_GET_FEATURES, features.address, 'VHOST_GET_FEATURES');
      this.features = features.view.getBigUint64(0, true);
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** An ioctl on it. @throws HostError */
  control(request: number, argument: number, name: string): number {
    return sys.check(this.#calls.ioctl(this.#fd.fd, request, argument), name, this.#path);
  }

  /** To be watched. */
  get fd(): number {
    return this.#fd.fd;
  }

  /**
   * Before rings are set up: where guest RAM is, and what was negotiated.
   * @param features those that concern the kernel
   */
  configure(memory: GuestMemory, features: bigint): void {
    this.#memory = memory;
    this.#translated = false;
    this.#setFeatures(features);
    const { blocks, files = [] } = memory.share;
    const regions = [...memory.regions, ...(blocks === undefined ? [] : [blocks]), ...files];
    const table = new NativeMemory(
      abi.vhost_memory.size + regions.length * abi.vhost_memory_region.size,
    );
    table.view.setUint32(abi.vhost_memory.nregions.offset, regions.length, true);
    regions.forEach(({ gpa, size, offset }, i) => {
      const at = abi.vhost_memory.size + i * abi.vhost_memory_region.size;
      const set = ({ offset: field }: { offset: number }, value: number): void =>
        table.view.setBigUint64(at + field, BigInt(value), true);
      set(abi.vhost_memory_region.guest_phys_addr, gpa);
      set(abi.vhost_memory_region.memory_size, size);
      set(abi.vhost_memory_region.userspace_addr, memory.address + offset);
    });
    this.control(abi.VHOST_SET_MEM_TABLE, table.address, 'VHOST_SET_MEM_TABLE');
  }

  /**
   * Before rings are set up, instead of `configure`: the device is behind an IOMMU, and the kernel gets its addresses
   * from a device IOTLB, which is empty.
   * @param features those that concern the kernel, VIRTIO_F_ACCESS_PLATFORM among them
   */
  configureTranslated({ memory }: IovaSpace, features: bigint): void {
    this.#memory = memory;
    this.#translated = true;
    const bits = new NativeMemory(8);
    bits.view.setBigUint64(0, featureSet(abi.VHOST_BACKEND_F_IOTLB_MSG_V2), true);
    this.control(abi.VHOST_SET_BACKEND_FEATURES, bits.address, 'VHOST_SET_BACKEND_FEATURES');
    this.#setFeatures(features);
    // The kernel serves no ring without a table, which it does not use.
    const empty = new NativeMemory(abi.vhost_memory.size);
    this.control(abi.VHOST_SET_MEM_TABLE, empty.address, 'VHOST_SET_MEM_TABLE');
  }

  /** What the kernel has to say of the device IOTLB; undefined: nothing now. */
  readIotlb(): IotlbMessage | undefined {
    const { address, bytes } = this.#received;
    const count = this.#calls.read(this.#fd.fd, address, bytes.length);
    if (count === 0 || count === -EAGAIN) return undefined;
    sys.check(count, 'read', this.#path);
    return decodeIotlb(this.#received);
  }

  /** Changes the device IOTLB. @throws HostError */
  writeIotlb(message: IotlbMessage): void {
    const { address, bytes } = encodeIotlb(message);
    sys.check(this.#calls.write(this.#fd.fd, address, bytes.length), 'VHOST_IOTLB_MSG', this.#path);
  }

  /**
   * Sets a ring up; it is served once it has a backend. The kernel does not check ring addresses,
   * so they are checked here.
   * @param features all negotiated feature bits
   * @param errorFd eventfd that the kernel signals when the driver breaks a rule
   * @throws PeerError when the driver placed the queue outside of RAM
   */
  setUpRing(ring: number, config: QueueConfig, features: bigint, errorFd: number): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    const place = locateRings(memory, config, features);
    this.#rings.set(ring, { config, used: place.device });
    this.#setState(abi.VHOST_SET_VRING_NUM, ring, config.size, 'VHOST_SET_VRING_NUM');
    const base = vringBase(config.state, this.#packed);
    this.#setState(abi.VHOST_SET_VRING_BASE, ring, base, 'VHOST_SET_VRING_BASE');
    const address = new StructMemory(abi.vhost_vring_addr);
    address.set('index', ring);
    // Offsets in the addresses of a device behind an IOMMU are those addresses.
    const start = this.#translated ? 0 : memory.address;
    address.set('desc_user_addr', start + place.descriptor);
    address.set('avail_user_addr', start + place.driver);
    address.set('used_user_addr', start + place.device);
    this.control(abi.VHOST_SET_VRING_ADDR, address.address, 'VHOST_SET_VRING_ADDR');
    this.setFile(abi.VHOST_SET_VRING_ERR, ring, errorFd, 'VHOST_SET_VRING_ERR');
    this.setFile(abi.VHOST_SET_VRING_CALL, ring, config.callFd, 'VHOST_SET_VRING_CALL');
    this.setFile(abi.VHOST_SET_VRING_KICK, ring, config.kickFd, 'VHOST_SET_VRING_KICK');
  }

  /**
   * Takes a ring back, whose backend was removed.
   * @returns its index in the virtio device, and its state
   */
  takeBack(ring: number): readonly [index: number, state: VringState] | undefined {
    const set = this.#rings.get(ring);
    const memory = this.#memory;
    if (set === undefined || memory === undefined) return undefined;
    this.#rings.delete(ring);
    // Without it, a kick would keep waking the kernel's worker.
    this.setFile(abi.VHOST_SET_VRING_KICK, ring, abi.VHOST_FILE_UNBIND, 'VHOST_SET_VRING_KICK');
    this.setFile(abi.VHOST_SET_VRING_CALL, ring, abi.VHOST_FILE_UNBIND, 'VHOST_SET_VRING_CALL');
    this.setFile(abi.VHOST_SET_VRING_ERR, ring, abi.VHOST_FILE_UNBIND, 'VHOST_SET_VRING_ERR');
    const base = this.#setState(abi.VHOST_GET_VRING_BASE, ring, 0, 'VHOST_GET_VRING_BASE');
    const state = vringState(base, this.#packed, memory, set.used);
    return [set.config.index, state];
  }

  /** Sets a ring's file: an eventfd or a backend; negative for none. */
  setFile(request: number, ring: number, fd: number, name: string): void {
    const file = new StructMemory(abi.vhost_vring_file);
    file.set('index', ring);
    file.set('fd', Math.max(fd, abi.VHOST_FILE_UNBIND));
    this.control(request, file.address, name);
  }

  /** Ends the kernel's service and closes the device. */
  close(): void {
    this.#fd.close();
  }

  #setFeatures(features: bigint): void {
    this.#packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    const bits = new NativeMemory(8);
    bits.view.setBigUint64(0, features, true);
    this.control(abi.VHOST_SET_FEATURES, bits.address, 'VHOST_SET_FEATURES');
  }

  #setState(request: number, ring: number, num: number, name: string): number {
    const state = new StructMemory(abi.vhost_vring_state);
    state.set('index', ring);
    state.set('num', num);
    this.control(request, state.address, name);
    return state.getNumber('num');
  }
}
