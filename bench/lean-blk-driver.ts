/** A driver of a block device that costs next to nothing: chains laid out once, only their sectors change. */
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, virtio_blk_req } from '../src/abi/virtio-blk.ts';
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, virtq_desc } from '../src/abi/virtio-ring.ts';
import type { DriverQueue } from '../src/testing/driver-queue.ts';
import type { GuestHeap } from '../src/testing/guest-heap.ts';

/** Bytes of a request. */
export const BLOCK = 4096;
const SECTORS_PER_BLOCK = BLOCK / 512;
/** Header, data, status. */
const SEGMENTS = 3;

/** What it drives, and how. */
export interface LeanBlkOptions {
  /** A split queue of at least three descriptors a request, with neither event index nor indirect tables. */
  readonly queue: DriverQueue;
  readonly heap: GuestHeap;
  /** Tells the device of new requests. */
  readonly notify: () => void;
  /** Returns when some request may be done. */
  readonly wait: () => void;
  /** Requests under way. */
  readonly depth: number;
  /** Blocks of the disk. */
  readonly blocks: number;
  readonly writes: boolean;
}

/** Random requests on queue 0. */
export class LeanBlkDriver {
  readonly #options: LeanBlkOptions;
  readonly #headers: DataView[] = [];
  readonly #status: Uint8Array[] = [];
  #avail = 0;

  constructor(options: LeanBlkOptions) {
    this.#options = options;
    for (let chain = 0; chain < options.depth; chain++) this.#layOut(chain);
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    const { queue, depth, notify, wait } = this.#options;
    const { driverArea, deviceArea, config } = queue;
    let seen = deviceArea.getUint16(2, true);
    let done = 0;
    for (let i = 0; i < depth; i++) this.#offer(i);
    driverArea.setUint16(2, this.#avail, true);
    let left = requests - depth;
    while (done < requests) {
      notify();
      let used = deviceArea.getUint16(2, true);
      while (used === seen) {
        wait();
        used = deviceArea.getUint16(2, true);
      }
      for (; seen !== used; seen = (seen + 1) & 0xffff) {
        const head = deviceArea.getUint32(4 + (seen % config.size) * 8, true);
        if (left-- > 0) this.#offer(head / SEGMENTS);
        done++;
      }
      driverArea.setUint16(2, this.#avail, true);
    }
  }

  /** True when the request that each chain had last succeeded. */
  get succeeded(): boolean {
    return this.#status.every(([status]) => status === 0);
  }

  #offer(chain: number): void {
    const { queue, blocks } = this.#options;
    const block = Math.floor(Math.random() * blocks);
    const header = this.#headers[chain] as DataView;
    header.setUint32(virtio_blk_req.sector.offset, block * SECTORS_PER_BLOCK, true);
    const entry = 4 + (this.#avail % queue.config.size) * 2;
    queue.driverArea.setUint16(entry, chain * SEGMENTS, true);
    this.#avail = (this.#avail + 1) & 0xffff;
  }

  #layOut(chain: number): void {
    const { heap, queue, writes } = this.#options;
    const lengths = [virtio_blk_req.size, BLOCK, 1];
    const gpas = lengths.map((length) => heap.allocate(length));
    for (const [i, length] of lengths.entries()) {
      const at = (chain * SEGMENTS + i) * virtq_desc.size;
      const next = i < SEGMENTS - 1 ? VIRTQ_DESC_F_NEXT : 0;
      const write = i > (writes ? 1 : 0) ? VIRTQ_DESC_F_WRITE : 0;
      queue.descriptorArea.setBigUint64(at, BigInt(gpas[i] as number), true);
      queue.descriptorArea.setUint32(at + 8, length, true);
      queue.descriptorArea.setUint16(at + 12, next | write, true);
      queue.descriptorArea.setUint16(at + 14, chain * SEGMENTS + i + 1, true);
    }
    const [header, , status] = gpas as [number, number, number];
    const view = heap.view(header, virtio_blk_req.size);
    view.setUint32(0, writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, true);
    this.#headers.push(view);
    this.#status.push(heap.bytes(status, 1).fill(0xff));
  }
}
