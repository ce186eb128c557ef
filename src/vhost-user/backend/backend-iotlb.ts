/**
 * A device behind the frontend's IOMMU (vhost-user.rst, "IOMMU support"): what the frontend has sent of its addresses. An
 * address that is not among them is a miss, which the frontend is asked about, while nothing is served.
 */
import * as abi from '../../abi/vhost.ts';
import { Closeable } from '../../host/cleanup-stack.ts';
import { PeerError } from '../../host/errors.ts';
import { PAGE_SIZE } from '../../memory/guest-memory.ts';
import { IovaSpace, iovaSize } from '../../memory/iova-space.ts';
import { GiB } from '../../memory/ram-layout.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import { protocolError } from '../message.ts';
import type { FrontendMemory } from './frontend-memory.ts';

/** Each GiB of addresses costs time at each start. */
const SIZE_MAX = 64 * GiB;
/** Each takes up to two entries in the kernel's table of this process's mappings. More, and all are asked for again. */
const MAPPINGS_MAX = 4096;

/** For as long as the frontend's memory stays the same. */
export class BackendIotlb extends Closeable {
  readonly space: IovaSpace;
  readonly #memory: FrontendMemory;

  /** @param memory which there is some of. @throws HostError when the host has no room */
  constructor(memory: FrontendMemory) {
    super();
    const { view } = memory;
    if (view === undefined) throw protocolError('a device IOTLB without memory');
    this.#memory = memory;
    // Drivers take addresses from below 4 GiB first; without translation a device has those of guest RAM.
    this.space = new IovaSpace(view, {
      size: Math.min(iovaSize(view), SIZE_MAX),
      placeOf: (gpa, length) => memory.placeOf(gpa, length),
    });
  }

  /** VHOST_USER_IOTLB_MSG. @throws PeerError when it makes no sense */
  change(message: IotlbMessage): void {
    switch (message.type) {
      case abi.VHOST_IOTLB_UPDATE:
        this.#update(message);
        return;
      case abi.VHOST_IOTLB_INVALIDATE:
        this.#forget(message.iova, message.size);
        return;
      default:
        throw protocolError(`an IOTLB message of type ${message.type}`);
    }
  }

  close(): void {
    this.space.close();
  }

  #update({ iova, size, uaddr, perm }: IotlbMessage): void {
    const isWhole = [iova, size, uaddr].every((value) => value % PAGE_SIZE === 0);
    if (!isWhole || size === 0 || perm > abi.VHOST_ACCESS_RW) {
      throw protocolError(`an IOTLB entry of ${size} bytes at 0x${iova.toString(16)}`);
    }
    const { size: limit } = this.space.share;
    if (iova + size > limit) {
      throw new PeerError(
        'E_IOTLB',
        `the frontend's IOMMU uses addresses beyond ${limit / GiB} GiB`,
        'restrict its width to 32 bits',
      );
    }
    const gpa = this.#memory.guestAddress(uaddr);
    if (gpa < 0 || this.#memory.placeOf(gpa, size) === undefined) {
      throw protocolError(`an IOTLB entry for 0x${uaddr.toString(16)}, which is not shared memory`);
    }
    // The frontend may repeat an entry that is in use: as an answer, and by itself.
    const [known] = this.space.table.within(iova, 1);
    const { address, length, access } = known ?? {};
    if (address === iova && length === size && known?.gpa === gpa && access === perm) return;
    this.#forget(iova, size);
    if (this.space.table.all.length >= MAPPINGS_MAX) this.space.clear();
    if (this.space.map(iova, gpa, size, perm)) return;
    throw new PeerError(
      'E_IOTLB',
      'shared memory cannot be mapped page by page',
      'have the frontend share memory in small pages',
    );
  }

  /** A part of an entry takes all of it along: it can be asked for again. */
  #forget(iova: number, size: number): void {
    for (const { address, length } of this.space.table.within(iova, size)) {
      this.space.unmap(address, length);
    }
  }
}
