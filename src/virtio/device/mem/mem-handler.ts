/** The data half of a memory device: requests of its driver (virtio 1.3 §5.15.6). */
import * as abi from '../../../abi/virtio-mem.ts';
import { BLOCK_SIZE } from '../../../memory/plugged-blocks.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { RequestHandler } from '../../request-handler.ts';

/** The blocks of a memory device. Their numbers count from the start of its region. */
export interface GrowingRam {
  /** Guest physical address of the region. */
  readonly gpa: number;
  /** Blocks in it. */
  readonly count: number;
  /** How many of some neighbors are plugged. */
  pluggedOf(first: number, count: number): number;
  /** @returns false when the host cannot do that now */
  plug(first: number, count: number): boolean;
  unplug(first: number, count: number): void;
}

/** What the handler needs of the device. */
export interface MemLimits {
  /** Blocks that the guest is to have. */
  readonly requested: number;
  /** Blocks that it has. */
  readonly plugged: number;
  /** Blocks were plugged or unplugged. */
  changed(): void;
}

/** Serves the queue. */
export class MemHandler extends RequestHandler {
  protected override readonly budget = 64;
  readonly #ram: GrowingRam;
  readonly #limits: MemLimits;

  constructor(ram: GrowingRam, limits: MemLimits) {
    super();
    this.#ram = ram;
    this.#limits = limits;
  }

  /** What is no request, or has no room for a response, goes back unwritten. */
  protected override answer(chain: DescriptorChain): number {
    const { virtio_mem_req: request, virtio_mem_resp: response } = abi;
    if (chain.readableLength < request.size || chain.writableLength < response.size) return 0;
    const answer = new Uint8Array(response.size);
    const view = new DataView(answer.buffer);
    const type = chain.readUint(request.type.offset, 2);
    if (type === abi.VIRTIO_MEM_REQ_UNPLUG_ALL) {
      this.#ram.unplug(0, this.#ram.count);
      this.#limits.changed();
    } else {
      const first = (chain.readUint(request.addr.offset, 8) - this.#ram.gpa) / BLOCK_SIZE;
      const count = chain.readUint(request.nb_blocks.offset, 2);
      const inside = Number.isInteger(first) && first >= 0 && first + count <= this.#ram.count;
      const known = inside && count > 0;
      const result = known ? this.#obey(type, first, count) : abi.VIRTIO_MEM_RESP_ERROR;
      view.setUint16(response.type.offset, result, true);
      if (type === abi.VIRTIO_MEM_REQ_STATE && known) {
        view.setUint16(response.state.offset, this.#stateOf(first, count), true);
      }
    }
    return chain.write(0, answer);
  }

  #obey(type: number, first: number, count: number): number {
    const plugged = this.#ram.pluggedOf(first, count);
    switch (type) {
      case abi.VIRTIO_MEM_REQ_PLUG:
        if (plugged > 0) return abi.VIRTIO_MEM_RESP_ERROR;
        // §5.15: more than was requested is rejected.
        if (this.#limits.plugged + count > this.#limits.requested) return abi.VIRTIO_MEM_RESP_NACK;
        if (!this.#ram.plug(first, count)) return abi.VIRTIO_MEM_RESP_BUSY;
        this.#limits.changed();
        return abi.VIRTIO_MEM_RESP_ACK;
      case abi.VIRTIO_MEM_REQ_UNPLUG:
        if (plugged < count) return abi.VIRTIO_MEM_RESP_ERROR;
        this.#ram.unplug(first, count);
        this.#limits.changed();
        return abi.VIRTIO_MEM_RESP_ACK;
      case abi.VIRTIO_MEM_REQ_STATE:
        return abi.VIRTIO_MEM_RESP_ACK;
      default:
        return abi.VIRTIO_MEM_RESP_ERROR;
    }
  }

  #stateOf(first: number, count: number): number {
    const plugged = this.#ram.pluggedOf(first, count);
    if (plugged === count) return abi.VIRTIO_MEM_STATE_PLUGGED;
    return plugged === 0 ? abi.VIRTIO_MEM_STATE_UNPLUGGED : abi.VIRTIO_MEM_STATE_MIXED;
  }
}
