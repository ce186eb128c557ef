/**
 * The memory in which a device's queues note what is in flight, so that the backend that comes
 * after this one finds it (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD). The frontend keeps it.
 */
import { fstatSync, statfsSync } from 'node:fs';
import type { Fd } from '../../host/fd.ts';
import { FaultGuard } from '../../host/native-addon.ts';
import * as sys from '../../host/syscall.ts';
import { createMemoryFile } from '../../memory/memory-file.ts';
import {
  type InflightPlace,
  InflightRegion,
  inflightRegionSize,
} from '../../virtio/queue/inflight/inflight-region.ts';
import { protocolError } from '../message.ts';
import type { InflightArea } from '../payload.ts';

const PAGE_SIZE = 4096;
const MAX_QUEUE_SIZE = 32768;
const HUGETLBFS_MAGIC = 0x958458f6;

/** VHOST_USER_GET_INFLIGHT_FD: a new one, and what to answer. @throws PeerError or HostError */
export function createInflightFile(
  { queues, queueSize }: InflightArea,
  rings: number,
): { readonly file: Fd; readonly area: InflightArea } {
  checkCounts(queues, queueSize, rings);
  const mmapSize = queues * inflightRegionSize(queueSize);
  const what = `a record of ${mmapSize} bytes`;
  const file = createMemoryFile('nodevmm-inflight', mmapSize, what);
  return { file, area: { mmapSize, mmapOffset: 0, queues, queueSize } };
}

/** Owns a mapping of it. */
export class InflightBuffer implements Disposable {
  readonly #address: number;
  readonly #length: number;
  /** Of the first region. */
  readonly #start: number;
  readonly #queues: number;
  readonly #queueSize: number;
  readonly #guard: FaultGuard;
  #mapped = true;

  /**
   * VHOST_USER_SET_INFLIGHT_FD.
   * @param fd stays the caller's, who may close it after
   * @param rings of the device
   * @throws PeerError when it is no record of such queues
   */
  constructor(area: InflightArea, fd: number, rings: number) {
    const { queues, queueSize, mmapSize, mmapOffset } = area;
    checkCounts(queues, queueSize, rings);
    const needed = queues * inflightRegionSize(queueSize);
    const file = fstatSync(fd);
    const isPlain = file.isFile() && statfsSync(`/proc/self/fd/${fd}`).type !== HUGETLBFS_MAGIC;
    if (!isPlain) throw protocolError('the record of what is in flight is in no plain file');
    if (mmapSize < needed || mmapOffset % 8 !== 0 || mmapOffset + needed > file.size) {
      throw protocolError(
        `a record of ${mmapSize} bytes at ${mmapOffset} in a file of ${file.size}; ${queues} queues of ${queueSize} need ${needed}`,
      );
    }
    const head = mmapOffset % PAGE_SIZE;
    const length = Math.ceil((head + needed) / PAGE_SIZE) * PAGE_SIZE;
    const access = sys.PROT_READ | sys.PROT_WRITE;
    const mapped = sys.mmap(0, length, access, sys.MAP_SHARED, fd, mmapOffset - head);
    this.#address = sys.check(mapped, 'mmap', `${length} bytes of a peer's record`);
    this.#length = length;
    this.#start = this.#address + head;
    this.#queues = queues;
    this.#queueSize = queueSize;
    try {
      this.#guard = new FaultGuard(this.#address, length);
    } catch (error) {
      sys.munmap(this.#address, length);
      throw error;
    }
  }

  /** The frontend has taken away memory that was touched after. */
  get truncated(): boolean {
    return this.#guard.faults > 0;
  }

  /** Where a ring notes what is in flight; undefined: the record has no room for this one. */
  place(ring: number): InflightPlace | undefined {
    if (ring >= this.#queues) return undefined;
    const address = this.#start + ring * inflightRegionSize(this.#queueSize);
    return { address, entries: this.#queueSize };
  }

  /** Nothing is in flight: the device is reset. No ring is being served. */
  clear(): void {
    for (let ring = 0; ring < this.#queues; ring++) this.clearRing(ring);
  }

  /** A ring was given back: where it starts next, and with what, is the frontend's to say. */
  clearRing(ring: number): void {
    const place = this.place(ring);
    if (place !== undefined) new InflightRegion(place).clear();
  }

  /** Unmaps; no ring is being served. */
  [Symbol.dispose](): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    this.#guard[Symbol.dispose]();
    sys.munmap(this.#address, this.#length);
  }
}

/** @throws PeerError */
function checkCounts(queues: number, queueSize: number, rings: number): void {
  const fits = queues >= 1 && queues <= rings && queueSize >= 1 && queueSize <= MAX_QUEUE_SIZE;
  if (fits) return;
  throw protocolError(
    `a record for ${queues} queues of ${queueSize} descriptors; the device has ${rings} queues`,
  );
}
