/**
 * The inflight buffer: memory in which rings track inflight requests for the next backend
 * (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD). The frontend keeps it.
 */
import { fstatSync, statfsSync } from 'node:fs';
import { CleanupStack, Closeable } from '../../host/cleanup-stack.ts';
import type { Fd } from '../../host/fd.ts';
import { FaultGuard } from '../../host/native-addon.ts';
import * as sys from '../../host/syscall.ts';
import { createMemoryFile } from '../../memory/ram.ts';
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

/** VHOST_USER_GET_INFLIGHT_FD: a new buffer, and the reply. @throws PeerError or HostError */
export function createInflightFile(
  { queues, queueSize }: InflightArea,
  rings: number,
): { readonly file: Fd; readonly area: InflightArea } {
  checkCounts(queues, queueSize, rings);
  const mmapSize = queues * inflightRegionSize(queueSize);
  const what = `an inflight buffer of ${mmapSize} bytes`;
  const file = createMemoryFile('nodevmm-inflight', mmapSize, what);
  return { file, area: { mmapSize, mmapOffset: 0, queues, queueSize } };
}

/** Owns the mapping. */
export class InflightBuffer extends Closeable {
  readonly #mapping: CleanupStack;
  /** Address of the first queue's region. */
  readonly #start: number;
  readonly #queues: number;
  readonly #queueSize: number;
  readonly #guard: FaultGuard;

  /**
   * VHOST_USER_SET_INFLIGHT_FD.
   * @param fd stays the caller's, which may close it afterwards
   * @param rings of the device
   * @throws PeerError when it does not suit them
   */
  constructor(area: InflightArea, fd: number, rings: number) {
    super();
    const { queues, queueSize, mmapSize, mmapOffset } = area;
    checkCounts(queues, queueSize, rings);
    const needed = queues * inflightRegionSize(queueSize);
    const file = fstatSync(fd);
    const isPlain = file.isFile() && statfsSync(`/proc/self/fd/${fd}`).type !== HUGETLBFS_MAGIC;
    if (!isPlain) throw protocolError('the inflight buffer is not in a plain file');
    if (mmapSize < needed || mmapOffset % 8 !== 0 || mmapOffset + needed > file.size) {
      throw protocolError(
        `an inflight buffer of ${mmapSize} bytes at ${mmapOffset} in a file of ${file.size}, where ${queues} queues of ${queueSize} need ${needed}`,
      );
    }
    const head = mmapOffset % PAGE_SIZE;
    const length = Math.ceil((head + needed) / PAGE_SIZE) * PAGE_SIZE;
    const access = sys.PROT_READ | sys.PROT_WRITE;
    const mapped = sys.mmap(0, length, access, sys.MAP_SHARED, fd, mmapOffset - head);
    const address = sys.check(mapped, 'mmap', `${length} bytes of an inflight buffer`);
    this.#start = address + head;
    this.#queues = queues;
    this.#queueSize = queueSize;
    using stack = new CleanupStack();
    stack.defer(() => sys.munmap(address, length));
    this.#guard = stack.use(new FaultGuard(address, length));
    this.#mapping = stack.move();
  }

  /** The frontend has truncated memory that was accessed afterwards. */
  get truncated(): boolean {
    return this.#guard.faults > 0;
  }

  /** A ring's region; undefined when there is no room for one. */
  place(ring: number): InflightPlace | undefined {
    if (ring >= this.#queues) return undefined;
    const address = this.#start + ring * inflightRegionSize(this.#queueSize);
    return { address, entries: this.#queueSize };
  }

  /** The device was reset. No ring is being served. */
  clear(): void {
    for (let ring = 0; ring < this.#queues; ring++) this.clearRing(ring);
  }

  /** The ring was stopped with nothing in flight. */
  clearRing(ring: number): void {
    const place = this.place(ring);
    if (place !== undefined) new InflightRegion(place).clear();
  }

  /** Unmaps; no ring is being served. */
  close(): void {
    this.#mapping.dispose();
  }
}

/** @throws PeerError */
function checkCounts(queues: number, queueSize: number, rings: number): void {
  const fits = queues >= 1 && queues <= rings && queueSize >= 1 && queueSize <= MAX_QUEUE_SIZE;
  if (fits) return;
  throw protocolError(
    `an inflight buffer for ${queues} queues of ${queueSize} descriptors, where the device has ${rings} queues`,
  );
}
