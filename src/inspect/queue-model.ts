/** What a view of a queue shows, whatever its format: the positions of both sides, and the chains in flight. */
import {
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../abi/virtio-ring.ts';
import type { InspectedQueue } from '../machine/inspect.ts';
import type { PackedSnapshot, SplitSnapshot } from '../virtio/queue/ring-snapshot.ts';

/** `waiting`: made available, and not taken. `taken`: by the device, and not given back. */
export type ChainStage = 'waiting' | 'taken';

/** A buffer of a chain. */
export interface ChainBuffer {
  /** In the descriptor table or ring. */
  readonly index: number;
  readonly addr: string;
  readonly len: number;
  readonly kind: 'readable' | 'writable' | 'indirect';
}

/** A chain in flight. */
export interface Chain {
  readonly stage: ChainStage;
  /** What the device returns for it: the head's index, or the buffer id. */
  readonly id: number;
  readonly buffers: readonly ChainBuffer[];
}

/** Some entries of a ring, from a slot on. */
export interface Stretch {
  readonly from: number;
  readonly count: number;
}

/** A queue. Slots are places in a ring, from 0 to the size. */
export interface QueueModel {
  /** Where the driver adds next; absent while that is not known. */
  readonly driver?: number;
  /** What the device takes next. */
  readonly device?: number;
  /** Where the device returns next. */
  readonly used?: number;
  readonly waiting: Stretch;
  readonly taken: Stretch;
  readonly chains: readonly Chain[];
}

/** Chains that are listed individually, and buffers of each. */
const CHAINS = 64;
const BUFFERS = 32;

/** Works out what a snapshot of an enabled queue shows; undefined when it has none. */
export function queueModel(queue: InspectedQueue): QueueModel | undefined {
  const { ring } = queue;
  if (ring === undefined) return undefined;
  return ring.format === 'split' ? splitModel(queue, ring) : packedModel(queue, ring);
}

function splitModel({ size, state }: InspectedQueue, ring: SplitSnapshot): QueueModel {
  const { available, used } = ring;
  const outstanding = bounded(available.idx - used.idx, size);
  // The snapshot is a little older than the state, or newer.
  const taken =
    state === undefined
      ? outstanding
      : Math.min(bounded(state.nextAvail - used.idx, size), outstanding);
  const next = (used.idx + taken) & 0xffff;
  const heads = new Map(available.entries.map(({ slot, head }) => [slot, head]));
  const waiting = new Set<number>();
  for (let at = 0; at < outstanding - taken; at++) {
    const head = heads.get((next + at) % size);
    if (head !== undefined) waiting.add(head);
  }
  const descriptors = new Map(ring.descriptors.map((one) => [one.index, one]));
  const chain = (head: number): Chain => {
    const buffers: ChainBuffer[] = [];
    let one = descriptors.get(head);
    while (one !== undefined && buffers.length < BUFFERS) {
      buffers.push(buffer(one));
      one = (one.flags & VIRTQ_DESC_F_NEXT) === 0 ? undefined : descriptors.get(one.next);
    }
    return { stage: waiting.has(head) ? 'waiting' : 'taken', id: head, buffers };
  };
  return {
    driver: available.idx % size,
    ...(state === undefined ? {} : { device: next % size }),
    used: used.idx % size,
    waiting: { from: next % size, count: outstanding - taken },
    taken: { from: used.idx % size, count: taken },
    chains: ring.inFlight.slice(0, CHAINS).map(chain),
  };
}

function packedModel({ size, state }: InspectedQueue, ring: PackedSnapshot): QueueModel {
  const none = { from: 0, count: 0 };
  if (state === undefined) return { waiting: none, taken: none, chains: [] };
  const device = (state.nextAvail & 0x7fff) % size;
  const used = (state.nextUsed & 0x7fff) % size;
  const lapped = ((state.nextAvail ^ state.nextUsed) & 0x8000) !== 0;
  const taken = Math.max(0, device - used + (lapped ? size : 0));
  const waiting = Math.min(ring.waiting ?? 0, size);
  const stretches = {
    waiting: { from: device, count: waiting },
    taken: { from: used, count: taken },
  };
  const chains = (['taken', 'waiting'] as const).flatMap((stage) =>
    packedChains(ring, size, stretches[stage], stage),
  );
  return {
    driver: (device + waiting) % size,
    device,
    used,
    ...stretches,
    chains: chains.slice(0, CHAINS),
  };
}

/** The descriptors of a stretch, by their lists (virtio 1.3 §2.8.6). */
function packedChains(
  ring: PackedSnapshot,
  size: number,
  { from, count }: Stretch,
  stage: ChainStage,
): Chain[] {
  const descriptors = new Map(ring.descriptors.map((one) => [one.index, one]));
  const chains: Chain[] = [];
  let buffers: ChainBuffer[] = [];
  for (let at = 0; at < count && chains.length < CHAINS; at++) {
    const one = descriptors.get((from + at) % size);
    if (one === undefined) break;
    if (buffers.length < BUFFERS) buffers.push(buffer(one));
    // The last descriptor of a list has its buffer id (§2.8.6).
    if ((one.flags & VIRTQ_DESC_F_NEXT) !== 0 && at + 1 < count) continue;
    chains.push({ stage, id: one.id, buffers });
    buffers = [];
  }
  return chains;
}

function buffer({
  index,
  addr,
  len,
  flags,
}: Omit<ChainBuffer, 'kind'> & { flags: number }): ChainBuffer {
  if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) return { index, addr, len, kind: 'indirect' };
  const kind = (flags & VIRTQ_DESC_F_WRITE) === 0 ? 'readable' : 'writable';
  return { index, addr, len, kind };
}

/** A difference of two indices that wrap at 2^16; a driver that jumped makes it a full ring. */
function bounded(difference: number, size: number): number {
  return Math.min(difference & 0xffff, size);
}
