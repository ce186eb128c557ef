/** One open vhost device: rings that the host kernel serves (linux/vhost.h). */
import {
  VHOST_FILE_UNBIND,
  VHOST_GET_FEATURES,
  VHOST_GET_VRING_BASE,
  VHOST_SET_FEATURES,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_OWNER,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_NUM,
  vhost_memory,
  vhost_memory_region,
  vhost_vring_addr,
  vhost_vring_file,
  vhost_vring_state,
} from '../abi/vhost.ts';
import { VIRTIO_F_RING_PACKED } from '../abi/virtio-ring.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { hasFeature } from '../virtio/features.ts';
import { placeVirtqueue } from '../virtio/queue/create-virtqueue.ts';
import type { QueueConfig, VringState } from '../virtio/queue/virtqueue.ts';

/** The used ring's index, behind its flags (virtio 1.3 §2.7.8). */
const USED_INDEX = 2;

/** ioctl(2); tests put in their own kernel. */
export type Ioctl = (fd: number, request: number, argument: number) => number;

/** A ring that was set up, until it is taken back. */
interface Ring {
  readonly config: QueueConfig;
  /** Offset of the device area in guest RAM. */
  readonly used: number;
}

/** Owned by this process from its opening to its end. Rings are numbered within it. */
export class VhostDevice implements Disposable {
  /** Feature bits that the kernel can serve. */
  readonly features: bigint;
  readonly #path: string;
  readonly #fd: Fd;
  readonly #ioctl: Ioctl;
  readonly #rings = new Map<number, Ring>();
  #memory: GuestMemory | undefined;
  #packed = false;

  /**
   * Opens a vhost device.
   * @param path e.g. `/dev/vhost-net`
   * @param module that has it
   * @throws UsageError when the host has none, or does not let us
   */
  static open(path: string, module: string): VhostDevice {
    const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
    if (fd >= 0) return new VhostDevice(path, new Fd(fd));
    const code = sys.errnoName(-fd);
    const missing = code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV';
    throw new UsageError(
      'E_VHOST',
      missing
        ? `this kernel has no ${path}; load its module with "modprobe ${module}", or use vhost=off`
        : `cannot open ${path}: ${code}; as root run "chmod 666 ${path}", or use vhost=off`,
    );
  }

  /** @throws HostError when the kernel refuses */
  constructor(path: string, fd: Fd, ioctl: Ioctl = sys.ioctl) {
    this.#path = path;
    this.#fd = fd;
    this.#ioctl = ioctl;
    try {
      this.control(VHOST_SET_OWNER, 0, 'VHOST_SET_OWNER');
      const features = new NativeMemory(8);
      this.control(VHOST_GET_FEATURES, features.address, 'VHOST_GET_FEATURES');
      this.features = features.view.getBigUint64(0, true);
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** An ioctl on it. @throws HostError */
  control(request: number, argument: number, name: string): number {
    return sys.check(this.#ioctl(this.#fd.fd, request, argument), name, this.#path);
  }

  /**
   * Before rings are set up: where guest RAM is, and what was negotiated.
   * @param features those of them that are the kernel's affair
   */
  configure(memory: GuestMemory, features: bigint): void {
    this.#memory = memory;
    this.#packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    const bits = new NativeMemory(8);
    bits.view.setBigUint64(0, features, true);
    this.control(VHOST_SET_FEATURES, bits.address, 'VHOST_SET_FEATURES');
    const { regions } = memory;
    const table = new NativeMemory(vhost_memory.size + regions.length * vhost_memory_region.size);
    table.view.setUint32(vhost_memory.nregions.offset, regions.length, true);
    regions.forEach(({ gpa, size, offset }, i) => {
      const at = vhost_memory.size + i * vhost_memory_region.size;
      const set = ({ offset: field }: { offset: number }, value: number): void =>
        table.view.setBigUint64(at + field, BigInt(value), true);
      set(vhost_memory_region.guest_phys_addr, gpa);
      set(vhost_memory_region.memory_size, size);
      set(vhost_memory_region.userspace_addr, memory.address + offset);
    });
    this.control(VHOST_SET_MEM_TABLE, table.address, 'VHOST_SET_MEM_TABLE');
  }

  /**
   * Sets a ring up; it is served once it has a backend. The kernel takes ring addresses as they
   * are, so they are checked here.
   * @param features all that were negotiated
   * @param errorFd eventfd that the kernel signals when the driver broke a rule
   * @throws PeerError when the driver put the queue where there is no RAM
   */
  setUpRing(ring: number, config: QueueConfig, features: bigint, errorFd: number): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    const place = placeVirtqueue(memory, config, features);
    this.#rings.set(ring, { config, used: place.device });
    this.#setState(VHOST_SET_VRING_NUM, ring, config.size, 'VHOST_SET_VRING_NUM');
    this.#setState(VHOST_SET_VRING_BASE, ring, this.#base(config.state), 'VHOST_SET_VRING_BASE');
    const address = new StructMemory(vhost_vring_addr);
    address.set('index', ring);
    address.set('desc_user_addr', memory.address + place.descriptor);
    address.set('avail_user_addr', memory.address + place.driver);
    address.set('used_user_addr', memory.address + place.device);
    this.control(VHOST_SET_VRING_ADDR, address.address, 'VHOST_SET_VRING_ADDR');
    this.setFile(VHOST_SET_VRING_ERR, ring, errorFd, 'VHOST_SET_VRING_ERR');
    this.setFile(VHOST_SET_VRING_CALL, ring, config.callFd, 'VHOST_SET_VRING_CALL');
    this.setFile(VHOST_SET_VRING_KICK, ring, config.kickFd, 'VHOST_SET_VRING_KICK');
  }

  /**
   * Takes a ring back that has no backend any more.
   * @returns where it stands, by its index in the device
   */
  takeBack(ring: number): readonly [index: number, state: VringState] | undefined {
    const set = this.#rings.get(ring);
    const memory = this.#memory;
    if (set === undefined || memory === undefined) return undefined;
    this.#rings.delete(ring);
    // Without it, a kick would go on waking the kernel's worker.
    this.setFile(VHOST_SET_VRING_KICK, ring, VHOST_FILE_UNBIND, 'VHOST_SET_VRING_KICK');
    this.setFile(VHOST_SET_VRING_CALL, ring, VHOST_FILE_UNBIND, 'VHOST_SET_VRING_CALL');
    this.setFile(VHOST_SET_VRING_ERR, ring, VHOST_FILE_UNBIND, 'VHOST_SET_VRING_ERR');
    const base = this.#setState(VHOST_GET_VRING_BASE, ring, 0, 'VHOST_GET_VRING_BASE');
    const nextAvail = base & 0xffff;
    const nextUsed = this.#packed ? base >>> 16 : memory.readU16(set.used + USED_INDEX);
    return [set.config.index, { nextAvail, nextUsed }];
  }

  /** Gives a ring a file: an eventfd, a backend; negative for none. */
  setFile(request: number, ring: number, fd: number, name: string): void {
    const file = new StructMemory(vhost_vring_file);
    file.set('index', ring);
    file.set('fd', Math.max(fd, VHOST_FILE_UNBIND));
    this.control(request, file.address, name);
  }

  /** Ends the kernel's service and gives the descriptor back. */
  [Symbol.dispose](): void {
    this.#fd.close();
  }

  /** On split rings the kernel reads the used index from the ring itself. */
  #base(state: VringState | undefined): number {
    if (!this.#packed) return state?.nextAvail ?? 0;
    // A fresh packed ring starts at 0 with both wrap counters set (virtio 1.3 §2.8.1).
    const { nextAvail, nextUsed } = state ?? { nextAvail: 0x8000, nextUsed: 0x8000 };
    return (nextAvail | (nextUsed << 16)) >>> 0;
  }

  #setState(request: number, ring: number, num: number, name: string): number {
    const state = new StructMemory(vhost_vring_state);
    state.set('index', ring);
    state.set('num', num);
    this.control(request, state.address, name);
    return state.getNumber('num');
  }
}
