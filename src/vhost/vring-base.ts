/**
 * Where a ring resumes, as VHOST_SET_VRING_BASE and VHOST_USER_SET_VRING_BASE carry it. On a split
 * ring the base is the next available index, and the next used one is in the ring itself; on a
 * packed ring it holds both, each with its wrap counter in bit 15.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';

/** The used ring's index, behind its flags (virtio 1.3 §2.7.8). */
const USED_INDEX = 2;
/** A fresh packed ring starts at 0 with both wrap counters set (virtio 1.3 §2.8.1). */
export const FRESH_PACKED: VringState = { nextAvail: 0x8000, nextUsed: 0x8000 };

/** @param state absent for a fresh ring */
export function vringBase(state: VringState | undefined, packed: boolean): number {
  if (!packed) return state?.nextAvail ?? 0;
  const { nextAvail, nextUsed } = state ?? FRESH_PACKED;
  return (nextAvail | (nextUsed << 16)) >>> 0;
}

/** @param usedRing offset in guest RAM of a split ring's used ring */
export function vringState(
  base: number,
  packed: boolean,
  memory: GuestMemory,
  usedRing: number,
): VringState {
  const nextUsed = packed ? base >>> 16 : memory.readU16(usedRing + USED_INDEX);
  return { nextAvail: base & 0xffff, nextUsed };
}
