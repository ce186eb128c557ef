/** A queue's rings in a few lines, for a report: the indices, and the entries around them. */
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { type RingSnapshot, snapshotRing } from '../../queue/ring-snapshot.ts';
import type { QueueConfig, VringState } from '../../queue/virtqueue.ts';

/** Entries of each part that are shown. */
const SHOWN = 6;

/** @param head index of the descriptor in question; without one, those that come next */
export function dumpRing(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  state: VringState,
  head?: number,
): string[] {
  const snapshot = snapshotRing(memory, config, features, state);
  if (typeof snapshot === 'string') return [snapshot];
  const { size } = config;
  const stands = `the device is at available ${place(state.nextAvail, snapshot)}, used ${place(state.nextUsed, snapshot)}`;
  return [
    `${snapshot.format} ring of ${size} descriptors; ${stands}`,
    ...linesOf(snapshot, state, head, size),
  ];
}

function linesOf(
  snapshot: RingSnapshot,
  state: VringState,
  head: number | undefined,
  size: number,
): string[] {
  if (snapshot.format === 'packed') {
    const { descriptors, driverEvent, deviceEvent } = snapshot;
    const first = state.nextAvail & 0x7fff;
    const near = descriptors.filter(({ index }) => (index - first + 2 + size) % size < SHOWN);
    const event = (name: string, { flags, offset, wrap }: typeof driverEvent): string =>
      `${name} event: flags ${flags}, offset ${offset}, wrap ${wrap}`;
    return [
      `${event('driver', driverEvent)}; ${event('device', deviceEvent)}`,
      ...near.map(
        ({ index, addr, len, id, flags }) =>
          `descriptor ${index}: ${addr}, ${len} bytes, id ${id}, flags 0x${flags.toString(16)}`,
      ),
    ];
  }
  const { available, used, descriptors, inFlight } = snapshot;
  const first = head ?? inFlight[0] ?? 0;
  const last = <T extends { readonly slot: number }>(idx: number, entries: readonly T[]): T[] =>
    entries.filter(({ slot }) => ((idx - 1 - slot) & (size - 1)) < SHOWN);
  const heads = last(available.idx, available.entries).map(
    (entry) => `${entry.slot}: ${entry.head}`,
  );
  const ids = last(used.idx, used.entries).map(
    ({ slot, id, len }) => `${slot}: ${id} (${len} bytes)`,
  );
  return [
    `available: flags ${available.flags}, idx ${available.idx}, used_event ${available.usedEvent ?? '-'}; ${heads.join(', ')}`,
    `used: flags ${used.flags}, idx ${used.idx}, avail_event ${used.availEvent ?? '-'}; ${ids.join(', ')}`,
    ...descriptors
      .filter(({ index }) => index >= first && index < first + SHOWN)
      .map(
        ({ index, addr, len, flags, next }) =>
          `descriptor ${index}: ${addr}, ${len} bytes, flags 0x${flags.toString(16)}, next ${next}`,
      ),
  ];
}

function place(position: number, { format }: RingSnapshot): string {
  if (format === 'split') return String(position);
  return `${position & 0x7fff} (wrap ${position >>> 15})`;
}
