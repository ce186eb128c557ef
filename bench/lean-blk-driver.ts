/** A driver of a block device that costs next to nothing: see `LeanRequests`. */
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, virtio_blk_req } from '../src/abi/virtio-blk.ts';
import { LeanRequests, type LeanRequestsOptions } from './lean-requests.ts';

/** Bytes of a request. */
export const BLOCK = 4096;
const SECTORS_PER_BLOCK = BLOCK / 512;

/** What it drives, and how. */
export interface LeanBlkOptions extends LeanRequestsOptions {
  /** Blocks of the disk. */
  readonly blocks: number;
  readonly writes: boolean;
}

/** Random requests on queue 0. */
export class LeanBlkDriver {
  readonly #requests: LeanRequests;

  constructor(options: LeanBlkOptions) {
    const { blocks, writes } = options;
    const segments = [
      { length: virtio_blk_req.size, writable: false },
      { length: BLOCK, writable: !writes },
      { length: 1, writable: true },
    ];
    const requests = new LeanRequests(options, segments, (chain) => {
      const block = Math.floor(Math.random() * blocks);
      const header = requests.views[chain]?.[0] as DataView;
      header.setUint32(virtio_blk_req.sector.offset, block * SECTORS_PER_BLOCK, true);
    });
    for (const [header, , status] of requests.views) {
      header?.setUint32(0, writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, true);
      status?.setUint8(0, 0xff);
    }
    this.#requests = requests;
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    this.#requests.run(requests);
  }

  /** True when the request that each chain had last succeeded. */
  get succeeded(): boolean {
    return this.#requests.views.every(([, , status]) => status?.getUint8(0) === 0);
  }
}
