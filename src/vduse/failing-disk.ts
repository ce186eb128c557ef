/**
 * What serves the queues of a disk that broke: each request fails, until the driver resets the device. Without it, the host's tasks
 * would wait for their requests, and a driver's probe would keep the kernel's list of vDPA devices locked.
 */
import { VIRTIO_BLK_S_IOERR } from '../abi/virtio-blk.ts';
import type { ActiveQueue } from '../virtio/active-queue.ts';
import type { HandlerContext, QueueHandler } from '../virtio/device.ts';
import type { DescriptorChain } from '../virtio/queue/descriptor-chain.ts';

/** Requests that fail before the rest of the thread gets its turn. */
const BUDGET = 64;

export class FailingDisk implements QueueHandler {
  #queues: readonly (ActiveQueue | undefined)[] = [];

  start({ queues }: HandlerContext): void {
    this.#queues = queues;
  }

  kick(index: number): void {
    this.#queues[index]?.serve(BUDGET, fail);
  }

  stop(): void {
    this.#queues = [];
  }
}

/** The status is the last byte of a request (virtio 1.3 §5.2.6). @returns the bytes written from the first one on */
function fail(chain: DescriptorChain): number {
  const status = chain.writableLength - 1;
  if (status >= 0) chain.writeUint(status, 1, VIRTIO_BLK_S_IOERR);
  return status === 0 ? 1 : 0;
}
