/** A device's view of a virtqueue, in either format (virtio 1.3 §2.6). */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { DescriptorChain } from './descriptor-chain.ts';
import type { InflightPlace } from './inflight/inflight-region.ts';

/**
 * A queue's position, to hand over between datapaths. On packed queues bit
 * 15 is the wrap counter, as in vhost's VHOST_SET_VRING_BASE.
 */
export interface VringState {
  readonly nextAvail: number;
  readonly nextUsed: number;
}

/** The used ring's index, behind its flags (virtio 1.3 §2.7.8). */
const USED_INDEX = 2;
/** A fresh packed ring starts at 0 with both wrap counters set (virtio 1.3 §2.8.1). */
export const FRESH_PACKED: VringState = { nextAvail: 0x8000, nextUsed: 0x8000 };

/**
 * Where a ring resumes, as VHOST_SET_VRING_BASE and VHOST_USER_SET_VRING_BASE carry it. On a split
 * ring the base is the next available index, and the next used one is in the ring itself; on a
 * packed ring it holds both, each with its wrap counter in bit 15.
 * @param state absent for a fresh ring
 */
export function vringBase(state: VringState | undefined, packed: boolean): number {
  if (!packed) return state?.nextAvail ?? 0;
  const { nextAvail, nextUsed } = state ?? FRESH_PACKED;
  return (nextAvail | (nextUsed << 16)) >>> 0;
}

/** The state that a base stands for. @param usedRing offset in guest RAM of a split ring's used ring */
export function vringState(
  base: number,
  packed: boolean,
  memory: GuestMemory,
  usedRing: number,
): VringState {
  const nextUsed = packed ? base >>> 16 : memory.readU16(usedRing + USED_INDEX);
  return { nextAvail: base & 0xffff, nextUsed };
}

/** An enabled queue as the driver configured it; a plain, cloneable message. */
export interface QueueConfig {
  /** Index in the device. */
  readonly index: number;
  /** Number of descriptors: a power of two on split queues, any number up to 32768 on packed. */
  readonly size: number;
  /** Guest physical addresses of descriptor area, driver area and device area (§2.6). */
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  /** eventfd that the driver's notifications signal. */
  readonly kickFd: number;
  /** eventfd that interrupts the driver; -1 when the driver chose no vector. */
  readonly callFd: number;
  /** Where to resume; absent for a fresh queue. */
  readonly state?: VringState;
  /** An inflight record to keep; where it knows more than `state`, it takes precedence. */
  readonly inflight?: InflightPlace;
}

/** `pop` found a chain. */
export const POP_CHAIN = 1;
/** `pop` found nothing available. */
export const POP_EMPTY = 0;
/** Negative results of `pop`: the driver broke a rule, named by `faultText`. */
export const FAULT_INDEX_JUMP = -1;
export const FAULT_HEAD_RANGE = -2;
export const FAULT_CHAIN_LOOP = -3;
export const FAULT_ADDRESS = -4;
export const FAULT_READ_AFTER_WRITE = -5;
export const FAULT_INDIRECT = -6;
export const FAULT_LENGTH = -7;
export const FAULT_EMPTY_CHAIN = -8;
export const FAULT_NOT_AVAILABLE = -9;
const FAULT_UNMAPPED = -10;

const texts: Readonly<Record<number, string>> = {
  [FAULT_INDEX_JUMP]: 'more buffers are available or in use than the queue has room for (§2.7.13)',
  [FAULT_HEAD_RANGE]: 'a descriptor index is outside of its table (§2.7.5)',
  [FAULT_CHAIN_LOOP]:
    'a descriptor chain loops, or has more descriptors than are allowed (§2.7.5.3.1, §2.8.17)',
  [FAULT_ADDRESS]: 'a buffer lies outside of guest RAM (§2.7.5)',
  [FAULT_READ_AFTER_WRITE]: 'a readable descriptor follows a writable one (§2.7.4.2)',
  [FAULT_INDIRECT]: 'an indirect table is malformed or was not negotiated (§2.7.5.3, §2.8.19)',
  [FAULT_LENGTH]: 'a descriptor chain is longer than 2^32 bytes (§2.7.5.2)',
  [FAULT_EMPTY_CHAIN]: 'a descriptor chain has no descriptors (§2.7.13.1)',
  [FAULT_NOT_AVAILABLE]: 'a descriptor list became available before all of it was (§2.8.17)',
  [FAULT_UNMAPPED]: 'the IOMMU does not map a buffer, or a table of them, for this access (§6.1)',
};

/** @param fault for an address outside of RAM @returns what it is behind an IOMMU, which has denied it */
export function addressFault({ denied }: GuestMemory, fault: number): number {
  return denied === undefined ? fault : FAULT_UNMAPPED;
}

/** The rule behind a negative result of `pop`. */
export function faultText(fault: number): string {
  return texts[fault] ?? `fault ${fault}`;
}

/** A queue being served. Single threaded: only the thread that serves it may call. */
export interface Virtqueue {
  readonly index: number;
  readonly size: number;
  /**
   * Takes the next available chain.
   * @returns POP_CHAIN, POP_EMPTY, or a negative fault: the queue is broken from then on
   */
  pop(chain: DescriptorChain): number;
  /**
   * Gives back the last chain taken, as if it had not been popped. Repeated calls give back the
   * ones before it, latest first; none of them may have been pushed.
   */
  undoPop(chain: DescriptorChain): void;
  /**
   * Returns a chain to the driver; visible to it after `publish`. Chains may be returned in any
   * order: with VIRTIO_F_IN_ORDER the queue holds back the ones that overtook others (§2.7.9).
   * @param id the chain's `id`
   * @param slots the chain's `slots`
   * @param written bytes written to the start of its writable part
   */
  push(id: number, slots: number, written: number): void;
  /**
   * Makes the pushed chains visible to the driver. Cheap when there are none: returns false.
   * @returns true when the driver wants an interrupt for them (§2.7.7, §2.7.10, §2.8.10)
   */
  publish(): boolean;
  /**
   * Enables the driver's notifications; true when chains became available meanwhile: pop again. A
   * queue starts with notifications enabled. With VIRTIO_F_EVENT_IDX the driver's next
   * notification is the last until this is called again.
   */
  enableKicks(): boolean;
  /** Disables the driver's notifications for now. */
  disableKicks(): void;
  /**
   * While suppressed, the driver sees that notifications are not needed, whatever `enableKicks` sets:
   * the queue is being polled. Settings made meanwhile take effect at the end.
   * @returns true when suppression has ended, notifications are enabled, and chains are available
   */
  suppressKicks?(suppressed: boolean): boolean;
  /** For polling: a number that changes when chains become available. HOT. */
  peekAvailable?(): number;
  /**
   * The queue's position: the next chain to take, and the next used entry to write. To be called
   * when every popped chain was pushed and published, or given back.
   */
  state(): VringState;
}
