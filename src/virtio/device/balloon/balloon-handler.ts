/** The data half of a balloon (virtio 1.3 §5.5.6): pages from and for the guest, statistics, free pages. */
import * as abi from '../../../abi/virtio-balloon.ts';
import { hasFeature } from '../../../abi/virtio-ring.ts';
import { errnoName } from '../../../host/syscall.ts';
import { MiB } from '../../../memory/ram-layout.ts';
import { ReleasableRam } from '../../../memory/releasable-ram.ts';
import { type ActiveQueue, KEEP_CHAIN, UNDO_POP } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { BalloonPages, NOT_RAM } from './balloon-pages.ts';
import { type GuestMemoryStatistics, readStatistics } from './balloon-statistics.ts';

/** The control half's message. */
export const ASK_FOR_STATISTICS = 'statistics';

const INFLATE = 0;
const DEFLATE = 1;
const STATS = 2;
const FREE_PAGE = 3;
const REPORTING = 4;

/** Before the rest of the thread gets its turn: chains, page numbers, and bytes of reported pages. */
const CHAINS = 64;
const NUMBERS = 1024;
const REPORTED_BYTES = 64 * MiB;
const NUMBER_SIZE = 4;

/** Serves all queues. */
export class BalloonHandler implements QueueHandler {
  readonly #collected: (statistics: GuestMemoryStatistics) => void;
  #context: HandlerContext | undefined;
  #pages: BalloonPages | undefined;
  #ram: ReleasableRam | undefined;
  /** Reported pages must keep a value that pages from the host do not have. */
  #poisoned = false;
  #broken = false;
  /** The driver's buffer for statistics, until they are wanted again. */
  #statistics: DescriptorChain | undefined;
  /** Bytes that are done of each queue's first chain: a driver may make it long. */
  readonly #done = [0, 0, 0, 0, 0];

  /** @param collected gets statistics whenever the driver has new ones */
  constructor(collected: (statistics: GuestMemoryStatistics) => void) {
    this.#collected = collected;
  }

  start(context: HandlerContext): void {
    const { memory, features, config } = context;
    this.#context = context;
    this.#broken = false;
    this.#ram ??= new ReleasableRam(memory);
    this.#pages ??= new BalloonPages(memory, this.#ram);
    this.#done.fill(0);
    const poison = config?.subarray(abi.virtio_balloon_config.poison_val.offset) ?? [];
    this.#poisoned =
      hasFeature(features, abi.VIRTIO_BALLOON_F_PAGE_POISON) && poison.some((byte) => byte !== 0);
  }

  kick(index: number): void {
    const queue = this.#context?.queues[index];
    if (queue === undefined || this.#broken) return;
    if (index === STATS) this.#serveStatistics(queue);
    else if (index === REPORTING) this.#serveReports(queue);
    else if (index === FREE_PAGE) queue.serve(CHAINS, () => 0);
    else this.#servePages(queue, index);
  }

  stop(): void {
    const queue = this.#context?.queues[STATS];
    if (this.#statistics !== undefined) queue?.virtqueue.undoPop(this.#statistics);
    this.#statistics = undefined;
    this.#context = undefined;
  }

  /** What was in the balloon is the guest's again. */
  reset(): void {
    this.#pages = undefined;
  }

  /** The driver answers a used buffer with new statistics, unless it has been asked already. */
  message(message: unknown): void {
    const queue = this.#context?.queues[STATS];
    if (message !== ASK_FOR_STATISTICS || queue === undefined) return;
    if (this.#statistics === undefined) return;
    queue.complete(this.#statistics, 0);
    this.#statistics = undefined;
    queue.publish();
    this.kick(STATS);
  }

  /** §5.5.6.3: the device keeps the buffer until it wants others. */
  #serveStatistics(queue: ActiveQueue): void {
    queue.serve(
      CHAINS,
      (chain) => {
        this.#statistics = chain;
        this.#collected(readStatistics(chain));
        return KEEP_CHAIN;
      },
      () => this.#statistics === undefined,
    );
  }

  #servePages(queue: ActiveQueue, index: number): void {
    let left = NUMBERS;
    queue.serve(
      CHAINS,
      (chain) => {
        const from = this.#done[index] as number;
        const rest = Math.max(0, Math.floor((chain.readableLength - from) / NUMBER_SIZE));
        const numbers = new Uint32Array(Math.min(left, rest));
        chain.read(from, new Uint8Array(numbers.buffer));
        if (!this.#take(index, numbers)) return UNDO_POP;
        left -= numbers.length;
        // What is left of a long chain comes first in the next turn.
        const isDone = numbers.length === rest;
        this.#done[index] = isDone ? 0 : from + numbers.length * NUMBER_SIZE;
        return isDone ? 0 : UNDO_POP;
      },
      () => left > 0 && !this.#broken,
    );
    if (left === 0) queue.kickAgain();
  }

  /** @returns false when a number is wrong, which breaks the device */
  #take(index: number, numbers: Uint32Array): boolean {
    const pages = this.#pages as BalloonPages;
    const result = index === INFLATE ? pages.inflate(numbers) : pages.deflate(numbers);
    if (result === NOT_RAM) {
      this.#broken = true;
      const name = index === DEFLATE ? 'deflateq' : 'inflateq';
      this.#context?.broken(`${name}: a page is ${NOT_RAM} (§5.5.6)`);
      return false;
    }
    this.#reportErrno(result);
    return true;
  }

  /** §5.5.6.7: free pages, which the driver leaves alone until it has the buffer back. */
  #serveReports(queue: ActiveQueue): void {
    let left = REPORTED_BYTES;
    queue.serve(
      CHAINS,
      (chain) => {
        const from = this.#done[REPORTING] as number;
        const rest = Math.max(0, chain.writableLength - from);
        const length = Math.min(left, rest);
        if (!this.#poisoned) this.#release(chain, from, length);
        left -= length;
        this.#done[REPORTING] = length === rest ? 0 : from + length;
        return length === rest ? 0 : UNDO_POP;
      },
      () => left > 0,
    );
    if (left === 0) queue.kickAgain();
  }

  /** Gives back a range of the bytes of a chain's writable part. */
  #release(chain: DescriptorChain, from: number, length: number): void {
    let skip = from;
    let left = length;
    for (let at = chain.readable; at < chain.count && left > 0; at++) {
      const segment = chain.length[at] as number;
      const part = Math.max(0, Math.min(segment - skip, left));
      if (part > 0) {
        const start = (chain.offset[at] as number) + skip;
        this.#reportErrno(this.#ram?.release(start, part) ?? 0);
      }
      skip = Math.max(0, skip - segment);
      left -= part;
    }
  }

  #reportErrno(result: number): void {
    if (result >= 0) return;
    this.#context?.log(`the host does not take pages back: ${errnoName(-result)}`);
  }
}
