/** The queues of a device that somebody holds, to watch one chain at a time pass. */
import { VIRTIO_F_RING_PACKED } from '../../abi/virtio-ring.ts';
import type { Activation } from '../../datapath/datapath.ts';
import { UsageError } from '../../host/errors.ts';
import { hasFeature } from '../../virtio/features.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';
import type { DatapathName } from './datapath-choice.ts';

/** `hold`: take no chain any more. `step`: take one more, then none. `release`: as ever. */
export type GateOrder = 'hold' | 'step' | 'release';

/** @throws UsageError where a queue cannot be held */
export function refuseHolds(device: string, place: DatapathName): void {
  switch (place) {
    case 'userspace':
      return;
    case 'vhost':
      throw new UsageError(
        'E_HELD',
        `${device}: queues that the host kernel serves cannot be held; release them, and have userspace serve them (nodevmm vm move ${device} userspace)`,
      );
    case 'vhost-user':
      throw new UsageError(
        'E_HELD',
        `${device}: another process serves its queues; they cannot be held here`,
      );
  }
}

interface Hold {
  /** Chains that may still be taken: 0 or 1. */
  credits: number;
  /** Where the queue stood when it was last started. */
  from: number;
}

/** What is held; it outlives resets and reboots, until it is released. */
export class QueueHolds {
  readonly #holds = new Map<number, Hold>();

  /** True while any queue is held. */
  get any(): boolean {
    return this.#holds.size > 0;
  }

  /**
   * Chains that may still be taken from a queue; undefined when it is not held.
   * @param state where it stands now, if that is known
   */
  credits(queue: number, state?: VringState): number | undefined {
    const hold = this.#holds.get(queue);
    return hold === undefined || state === undefined ? hold?.credits : left(hold, state);
  }

  /** The queues are not being served. */
  obey(order: GateOrder, queue: number): void {
    if (order === 'release') this.#holds.delete(queue);
    else this.#holds.set(queue, { credits: order === 'step' ? 1 : 0, from: -1 });
  }

  /** The queues are about to be served. @returns the activation with what is held in it */
  start(activation: Activation): Activation {
    if (!this.any) return activation;
    const { queues, features } = activation;
    // §2.8.1: a packed queue starts with both wrap counters set.
    const fresh = hasFeature(features, VIRTIO_F_RING_PACKED) ? 0x8000 : 0;
    for (const { index, state } of queues) {
      const hold = this.#holds.get(index);
      if (hold !== undefined) hold.from = state?.nextAvail ?? fresh;
    }
    const holds = new Map([...this.#holds].map(([queue, { credits }]) => [queue, credits]));
    return { ...activation, holds };
  }

  /** They are served no longer: one that went on has spent its credit. */
  stop(states: ReadonlyMap<number, VringState>): void {
    for (const [queue, hold] of this.#holds) {
      const state = states.get(queue);
      if (state !== undefined) hold.credits = left(hold, state);
    }
  }
}

function left({ credits, from }: Hold, { nextAvail }: VringState): number {
  return nextAvail === from ? credits : 0;
}
