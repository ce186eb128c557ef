/** The data half of a virtio-iommu: requests of its driver, and reports of faults (virtio 1.3 §5.13.6). */

import type { AnyLayout } from '../../../abi/struct.ts';
import * as abi from '../../../abi/virtio-iommu.ts';
import type { DeniedAccess } from '../../../memory/guest-memory.ts';
import { type ActiveQueue, KEEP_CHAIN } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { type IommuDomains, MSI_END, MSI_START } from './domains.ts';
import type { IommuRules } from './iommu-rules.ts';

const REQUEST = 0;
const EVENT = 1;
/** Requests that are served before the rest of the thread gets its turn. */
const BUDGET = 64;
/** Bytes for the properties of an endpoint. */
export const PROBE_SIZE = 512;

const TAIL_SIZE = abi.virtio_iommu_req_tail.size;
/** The request could not be parsed: its buffer goes back unwritten. */
const UNPARSED = -1;

/** A request that was obeyed, and whose tail waits until those who serve endpoints follow. */
interface Obeyed {
  readonly chain: DescriptorChain;
  readonly status: number;
  readonly ended: Promise<void>;
}

/** Serves both queues. */
export class IommuHandler implements QueueHandler {
  readonly #domains: IommuDomains;
  readonly #rules: IommuRules | undefined;
  #queues: readonly (ActiveQueue | undefined)[] = [];
  /** The next request is not looked at before its end. */
  #waiting: Obeyed | undefined;

  /** @param rules checks requests, if that is wanted */
  constructor(domains: IommuDomains, rules?: IommuRules) {
    this.#domains = domains;
    this.#rules = rules;
  }

  start({ queues }: HandlerContext): void {
    this.#queues = queues;
  }

  kick(queue: number): void {
    if (queue !== REQUEST) return;
    this.#queues[REQUEST]?.serve(
      BUDGET,
      (chain) => this.#answer(chain),
      () => this.#waiting === undefined,
    );
  }

  drain(): Promise<void> | undefined {
    return this.#waiting?.ended;
  }

  /** A request that was obeyed cannot be given back. */
  stop(): void {
    this.#end();
    this.#queues = [];
  }

  /** Reports an access that was denied; without a buffer of the driver's the report is lost (§5.13.6.9). */
  report(endpoint: number, { address, write }: DeniedAccess): void {
    const fault = new Uint8Array(abi.virtio_iommu_fault.size);
    const view = new DataView(fault.buffer);
    const { reason, flags, endpoint: id, address: where } = abi.virtio_iommu_fault;
    view.setUint8(
      reason.offset,
      this.#domains.isAttached(endpoint)
        ? abi.VIRTIO_IOMMU_FAULT_R_MAPPING
        : abi.VIRTIO_IOMMU_FAULT_R_DOMAIN,
    );
    const access = write ? abi.VIRTIO_IOMMU_FAULT_F_WRITE : abi.VIRTIO_IOMMU_FAULT_F_READ;
    view.setUint32(flags.offset, access | abi.VIRTIO_IOMMU_FAULT_F_ADDRESS, true);
    view.setUint32(id.offset, endpoint, true);
    // What a 64-bit address loses as a double is beyond all that can be mapped.
    view.setBigUint64(where.offset, BigInt.asUintN(64, BigInt(address)), true);
    let written = false;
    this.#queues[EVENT]?.serve(
      BUDGET,
      (chain) => {
        // §5.13.6.9.2: a buffer that is too small gets nothing.
        if (chain.writableLength < fault.length) return 0;
        written = true;
        return chain.write(0, fault);
      },
      () => !written,
    );
  }

  /** @returns the bytes written */
  #answer(chain: DescriptorChain): number {
    const type = chain.readUint(0, 1);
    if (type === abi.VIRTIO_IOMMU_T_PROBE) return this.#probe(chain);
    const status = this.#obey(type, chain);
    if (status === UNPARSED) return 0;
    const settled = this.#domains.settled();
    if (settled === undefined) return writeTail(chain, 0, status);
    const ended = settled.then(() => {
      if (this.#waiting?.chain !== chain) return;
      this.#end();
      this.kick(REQUEST);
    });
    this.#waiting = { chain, status, ended };
    return KEEP_CHAIN;
  }

  /** Answers the request that waits, if one does. */
  #end(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    this.#waiting = undefined;
    const queue = this.#queues[REQUEST];
    queue?.complete(waiting.chain, writeTail(waiting.chain, 0, waiting.status));
    queue?.publish();
  }

  /** @returns the status, or UNPARSED */
  #obey(type: number, chain: DescriptorChain): number {
    // Without room for the tail there is no request (§5.13.6).
    if (chain.writableLength < TAIL_SIZE) return UNPARSED;
    const holds = ({ size }: AnyLayout): boolean => chain.readableLength >= size;
    const u32 = (offset: number): number => chain.readUint(offset, 4);
    const u64 = (offset: number): number => chain.readUint(offset, 8);
    switch (type) {
      case abi.VIRTIO_IOMMU_T_ATTACH: {
        const attach = abi.virtio_iommu_req_attach;
        if (!holds(attach)) return UNPARSED;
        const fields = [
          u32(attach.endpoint.offset),
          u32(attach.domain.offset),
          u32(attach.flags.offset),
          u32(attach.reserved.offset),
        ] as const;
        this.#rules?.attach(...fields);
        return this.#domains.attach(...fields);
      }
      case abi.VIRTIO_IOMMU_T_DETACH: {
        const detach = abi.virtio_iommu_req_detach;
        if (!holds(detach)) return UNPARSED;
        return this.#domains.detach(u32(detach.endpoint.offset), u32(detach.domain.offset));
      }
      case abi.VIRTIO_IOMMU_T_MAP: {
        const map = abi.virtio_iommu_req_map;
        if (!holds(map)) return UNPARSED;
        const domain = u32(map.domain.offset);
        const mapping = {
          start: u64(map.virt_start.offset),
          end: u64(map.virt_end.offset),
          gpa: u64(map.phys_start.offset),
          flags: u32(map.flags.offset),
        };
        this.#rules?.map(domain, mapping);
        return this.#domains.map(domain, mapping);
      }
      case abi.VIRTIO_IOMMU_T_UNMAP: {
        const unmap = abi.virtio_iommu_req_unmap;
        if (!holds(unmap)) return UNPARSED;
        const range = [
          u32(unmap.domain.offset),
          u64(unmap.virt_start.offset),
          u64(unmap.virt_end.offset),
        ] as const;
        this.#rules?.unmap(...range);
        return this.#domains.unmap(...range);
      }
      default:
        return UNPARSED;
    }
  }

  /** §5.13.6.7: the properties are the MSI doorbells. */
  #probe(chain: DescriptorChain): number {
    const { endpoint, size } = abi.virtio_iommu_req_probe;
    const room = chain.writableLength - TAIL_SIZE;
    if (chain.readableLength < size || room < 0) return 0;
    this.#rules?.probe(room, PROBE_SIZE);
    if (room < PROBE_SIZE) return writeTail(chain, room, abi.VIRTIO_IOMMU_S_INVAL);
    const known = this.#domains.has(chain.readUint(endpoint.offset, 4));
    const properties = new Uint8Array(PROBE_SIZE);
    if (known) writeMsiRegion(new DataView(properties.buffer));
    chain.write(0, properties);
    const status = known ? abi.VIRTIO_IOMMU_S_OK : abi.VIRTIO_IOMMU_S_NOENT;
    return writeTail(chain, PROBE_SIZE, status);
  }
}

/** @returns the bytes written up to the tail's end */
function writeTail(chain: DescriptorChain, position: number, status: number): number {
  const tail = new Uint8Array(TAIL_SIZE);
  tail[abi.virtio_iommu_req_tail.status.offset] = status;
  return position + chain.write(position, tail);
}

function writeMsiRegion(view: DataView): void {
  const region = abi.virtio_iommu_probe_resv_mem;
  view.setUint16(region.type.offset, abi.VIRTIO_IOMMU_PROBE_T_RESV_MEM, true);
  view.setUint16(region.length.offset, region.size - abi.VIRTIO_IOMMU_PROBE_HEAD, true);
  view.setUint8(region.subtype.offset, abi.VIRTIO_IOMMU_RESV_MEM_T_MSI);
  view.setBigUint64(region.start.offset, BigInt(MSI_START), true);
  view.setBigUint64(region.end.offset, BigInt(MSI_END), true);
}
