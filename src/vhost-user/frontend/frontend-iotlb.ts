/**
 * A backend's copy of what the machine's IOMMU permits (vhost-user.rst, "IOMMU support"): it gets what the guest maps, asks
 * for what it lacks, and acknowledges that it forgot what the guest unmaps before the UNMAP request is answered.
 */
import * as abi from '../../abi/vhost.ts';
import { AsyncCloseable } from '../../host/cleanup-stack.ts';
import { type DeniedAccess, deniedAccess } from '../../memory/guest-memory.ts';
import type { IovaSpace } from '../../memory/iova-space.ts';
import type { IovaListener, IovaMapping } from '../../memory/iova-table.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import type { RingArea } from '../../virtio/queue/create-virtqueue.ts';
import type { FrontendSession } from './frontend-session.ts';

/**
 * The guest waits for each answer, and so does a stop of the IOMMU (`QueueHandler.drain`): a backend that is slower
 * is disconnected.
 */
const ANSWER_MS = 1000;
/** Mappings that a backend has yet to acknowledge; it asks for the others. */
const UNANSWERED_MAX = 64;

/**
 * A page that is written is also read (virtio 1.3 §5.13.6.5.2 allows it): DPDK asks for both when it writes to a buffer,
 * which Linux's drivers map for writing only.
 */
const granted = (access: number): number =>
  (access & abi.VHOST_ACCESS_WO) === 0 ? access : abi.VHOST_ACCESS_RW;

/** From the setup of rings in a session to their end. */
export class FrontendIotlb extends AsyncCloseable implements IovaListener {
  readonly #session: FrontendSession;
  readonly #space: IovaSpace;
  readonly #denied: (access: DeniedAccess) => void;
  #wasDenied = false;
  #unanswered = 0;

  /** @param denied the backend met an address that is not permitted; called once */
  constructor(session: FrontendSession, space: IovaSpace, denied: (access: DeniedAccess) => void) {
    super();
    this.#session = session;
    this.#space = space;
    this.#denied = denied;
    space.table.watch(this);
  }

  /** Sends a ring's areas. @throws PeerError */
  async prefault(areas: readonly RingArea[]): Promise<void> {
    for (const { address, length } of areas) {
      for (const mapping of this.#space.table.within(address, length)) await this.#update(mapping);
    }
  }

  /** Waits for the backend, lest a guest makes changes faster than it takes them. A failure ends the session. */
  mapped(mapping: IovaMapping): Promise<void> | undefined {
    if (this.#unanswered >= UNANSWERED_MAX) return undefined;
    return this.#update(mapping).catch(() => {});
  }

  unmapped(iova: number, size: number): Promise<void> {
    const { VHOST_IOTLB_INVALIDATE: type } = abi;
    const message = { type, iova, size, uaddr: 0, perm: 0 };
    return this.#session.changeIotlb(message, ANSWER_MS).catch(() => {});
  }

  /** A message of the backend's. @returns whether it now has what it asked for */
  async asked({ type, iova, perm }: IotlbMessage): Promise<boolean> {
    const isMiss = type === abi.VHOST_IOTLB_MISS;
    if (!isMiss && type !== abi.VHOST_IOTLB_ACCESS_FAIL) return false;
    const mapping = isMiss ? this.#space.table.find(iova, 0) : undefined;
    if (mapping !== undefined && (granted(mapping.access) & perm) === perm) {
      await this.#update(mapping);
      return true;
    }
    if (this.#wasDenied) return false;
    this.#wasDenied = true;
    this.#denied(deniedAccess(iova, perm));
    return false;
  }

  /** The rings are stopped: the backend forgets everything. */
  async close(): Promise<void> {
    this.#space.table.unwatch(this);
    await this.unmapped(0, this.#space.share.size);
  }

  async #update(mapping: IovaMapping): Promise<void> {
    const { address: iova, length: size, access } = mapping;
    const perm = granted(access);
    if (perm === 0) return;
    const { VHOST_IOTLB_UPDATE: type } = abi;
    const uaddr = this.#space.hostAddress(mapping);
    this.#unanswered++;
    try {
      await this.#session.changeIotlb({ type, iova, size, uaddr, perm }, ANSWER_MS);
    } finally {
      this.#unanswered--;
    }
  }
}
