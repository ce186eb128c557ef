/**
 * One queue's part of the record in which a vhost-user backend tracks inflight buffers, in memory
 * that the frontend keeps for the next backend (vhost-user.rst, "Inflight I/O
 * tracking"). The frontend can write to it at any time: it is read once, when a queue starts.
 */
import {
  DescStatePacked,
  INFLIGHT_VERSION,
  QueueRegionPacked,
  QueueRegionSplit,
} from '../../../abi/vhost-user.ts';
import { PeerError } from '../../../host/errors.ts';
import { viewOf } from '../../../host/native-memory.ts';

const ALIGNMENT = 64;
/** Places that both formats have in common, in 16-bit words. */
const VERSION = QueueRegionSplit.version.offset / 2;
const DESC_NUM = QueueRegionSplit.desc_num.offset / 2;

/** Where a queue's region is mapped; a plain, cloneable message. */
export interface InflightPlace {
  /** Host virtual address, a multiple of 8. */
  readonly address: number;
  /** Descriptors that it has room for, at least the queue's. */
  readonly entries: number;
}

/** Bytes of a region, in either format of the queue. */
export function inflightRegionSize(entries: number): number {
  const bytes = QueueRegionPacked.size + DescStatePacked.size * entries;
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** A region's bytes, as words of each width. */
export class InflightRegion {
  readonly entries: number;
  readonly bytes: Uint8Array;
  readonly halves: Uint16Array;
  readonly words: Uint32Array;
  /** For stores of 8 bytes at once. */
  readonly doubles: Float64Array;

  constructor({ address, entries }: InflightPlace) {
    const buffer = viewOf(address, inflightRegionSize(entries));
    this.entries = entries;
    this.bytes = new Uint8Array(buffer);
    this.halves = new Uint16Array(buffer);
    this.words = new Uint32Array(buffer);
    this.doubles = new Float64Array(buffer);
  }

  /** False as long as nothing was written. @throws PeerError when it is not a region of this size */
  get isWritten(): boolean {
    const version = this.halves[VERSION];
    if (version === 0) return false;
    if (version !== INFLIGHT_VERSION) throw badRecord(`its version is ${version}, not 1`);
    const entries = this.halves[DESC_NUM];
    if (entries === this.entries) return true;
    throw badRecord(`it has ${entries} entries where ${this.entries} belong`);
  }

  /** Clears it: first the version, so that a crash in between leaves it unwritten. */
  clear(): void {
    Atomics.store(this.halves, VERSION, 0);
    this.bytes.fill(0);
  }

  /** From here on, it is complete. */
  setWritten(): void {
    this.halves[DESC_NUM] = this.entries;
    Atomics.store(this.halves, VERSION, INFLIGHT_VERSION);
  }
}

/** The frontend, or an earlier backend, corrupted the record. */
export function badRecord(why: string): PeerError {
  return new PeerError(
    'E_INFLIGHT',
    `the record of what is in flight cannot be: ${why}`,
    'reset the device',
  );
}
