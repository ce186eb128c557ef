/**
 * The device IOTLB of a vhost device: what the kernel knows of the addresses of a device behind the machine's IOMMU. It
 * gets what the guest maps, asks for what it lacks (a miss), and forgets what the guest unmaps before the unmapping
 * is reported to the guest. A ring whose address it lacks rests until that comes.
 */
import * as abi from '../abi/vhost.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import { type DeniedAccess, deniedAccess } from '../memory/guest-memory.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import type { IovaListener, IovaMapping } from '../memory/iova-table.ts';
import type { RingArea } from '../virtio/queue/create-virtqueue.ts';
import type { IotlbMessage } from './iotlb-message.ts';
import type { VhostDevice } from './vhost-device.ts';

/** Misses that are answered before the rest of the thread gets its turn. */
const BUDGET = 64;
/** All 64-bit addresses, in two ranges whose ends are exact as doubles. */
const LAST_RANGE = 2 ** 64 - 2048;
const ALL: readonly (readonly [iova: number, size: number])[] = [
  [0, LAST_RANGE],
  [LAST_RANGE, 2048],
];

/** From the setup of a vhost device's rings to their end. */
export class VhostIotlb extends Closeable implements IovaListener {
  readonly #vhost: VhostDevice;
  readonly #space: IovaSpace;
  readonly #denied: (access: DeniedAccess) => void;
  readonly #watch: LoopWatch;
  #wasDenied = false;
  #open = true;

  /**
   * @param vhost configured to have one, which is empty
   * @param denied a miss was not permitted; nothing must run the rings from then on
   */
  constructor(vhost: VhostDevice, space: IovaSpace, denied: (access: DeniedAccess) => void) {
    super();
    this.#vhost = vhost;
    this.#space = space;
    this.#denied = denied;
    this.#watch = new LoopWatch(vhost.fd, LOOP_READABLE, () => this.#readMisses());
    space.table.watch(this);
  }

  /** Gives the kernel a ring's areas, which it uses as soon as the ring runs. @throws HostError */
  prefault(areas: readonly RingArea[]): void {
    for (const { address, length } of areas) {
      for (const mapping of this.#space.table.within(address, length)) this.mapped(mapping);
    }
  }

  mapped(mapping: IovaMapping): undefined {
    if (mapping.access === 0) return;
    const uaddr = this.#space.hostAddress(mapping);
    this.#write(abi.VHOST_IOTLB_UPDATE, mapping.address, mapping.length, uaddr, mapping.access);
  }

  unmapped(address: number, length: number): undefined {
    this.#write(abi.VHOST_IOTLB_INVALIDATE, address, length);
  }

  /** The rings must be halted. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.close();
    this.#space.table.unwatch(this);
    if (this.#wasDenied) this.#answerDenied();
  }

  #readMisses(): void {
    for (let left = BUDGET; left > 0 && this.#open && !this.#wasDenied; left--) {
      const message = this.#vhost.readIotlb();
      if (message === undefined) return;
      if (message.type === abi.VHOST_IOTLB_MISS) this.#answer(message);
    }
  }

  #answer({ iova, perm }: IotlbMessage): void {
    const mapping = this.#space.table.find(iova, perm);
    if (mapping !== undefined) {
      this.mapped(mapping);
      return;
    }
    this.#wasDenied = true;
    this.#watch.set(0);
    this.#denied(deniedAccess(iova, perm));
  }

  /**
   * The kernel keeps each miss until it is answered, and a guest can provoke any number of them. Nothing runs the
   * rings: the answer, which permits nothing, is taken back at once.
   */
  #answerDenied(): void {
    while (this.#vhost.readIotlb() !== undefined);
    for (const [iova, size] of ALL) this.#write(abi.VHOST_IOTLB_UPDATE, iova, size);
    for (const [iova, size] of ALL) this.#write(abi.VHOST_IOTLB_INVALIDATE, iova, size);
  }

  #write(type: number, iova: number, size: number, uaddr = 0, perm = 0): void {
    this.#vhost.writeIotlb({ type, iova, size, uaddr, perm });
  }
}
