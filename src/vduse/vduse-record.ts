/**
 * The record of what is in flight, in a file: a server that continues for a killed one reads there which requests that one had
 * taken. The regions are those of a vhost-user backend (vhost-user.rst, "Inflight I/O tracking").
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { InflightBuffer } from '../vhost-user/backend/inflight-buffer.ts';
import {
  type InflightPlace,
  InflightRegion,
  inflightRegionSize,
} from '../virtio/queue/inflight/inflight-region.ts';
import type { VduseShape } from './vduse-device.ts';

/** A page in front of the regions says whose they are. */
const HEAD = 4096;

/** Of one device, whose server has it to itself. */
export class VduseRecord extends Closeable {
  readonly #path: string;
  readonly #buffer: InflightBuffer;

  /** An empty one, instead of what an earlier device of that name left. @param folder of this user's own */
  static create(folder: string, name: string, shape: VduseShape): VduseRecord {
    const path = pathOf(folder, name);
    rmSync(path, { force: true });
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      // Not a hole: the disk may be full when it is filled.
      writeSync(fd, Buffer.alloc(sizeOf(shape)), 0, sizeOf(shape), 0);
      writeSync(fd, headOf(shape), 0, undefined, 0);
      return new VduseRecord(path, fd, shape);
    } finally {
      closeSync(fd);
    }
  }

  /**
   * That of the killed server.
   * @param folder of this user's own
   * @throws UsageError when there is none, or of a device of another shape
   */
  static open(folder: string, name: string, shape: VduseShape): VduseRecord {
    const path = pathOf(folder, name);
    const remedy = `remove the device with "vdpa dev del ${name}"`;
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new UsageError(
        'E_VDUSE',
        `the VDUSE device ${name} was not served by this user: cannot open ${path} (${code})`,
        remedy,
        { cause: error },
      );
    }
    try {
      const wanted = headOf(shape);
      const head = Buffer.alloc(wanted.length);
      readSync(fd, head, 0, head.length, 0);
      if (!head.equals(wanted) || fstatSync(fd).size !== sizeOf(shape)) {
        throw new UsageError(
          'E_VDUSE',
          `the VDUSE device ${name} was served with another type or other queues`,
          `serve it with the options it had, or ${remedy}`,
        );
      }
      return new VduseRecord(path, fd, shape);
    } finally {
      closeSync(fd);
    }
  }

  private constructor(path: string, fd: number, { queueSizes }: VduseShape) {
    super();
    this.#path = path;
    const queueSize = Math.max(...queueSizes);
    const queues = queueSizes.length;
    const mmapSize = queues * inflightRegionSize(queueSize);
    const area = { mmapSize, mmapOffset: HEAD, queues, queueSize };
    this.#buffer = new InflightBuffer(area, fd, queues);
  }

  place(queue: number): InflightPlace | undefined {
    return this.#buffer.place(queue);
  }

  /** Whether the queue has been served since the reset. @throws PeerError when its region is damaged */
  isWritten(queue: number): boolean {
    const place = this.place(queue);
    return place !== undefined && new InflightRegion(place).isWritten;
  }

  /** The driver reset the device. */
  clear(): void {
    this.#buffer.clear();
  }

  /** The device is gone. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  /** Unmaps it. The file stays, for the next server. */
  close(): void {
    this.#buffer.close();
  }
}

function pathOf(folder: string, name: string): string {
  return join(folder, `vduse-${name}`);
}

function sizeOf({ queueSizes }: VduseShape): number {
  return HEAD + queueSizes.length * inflightRegionSize(Math.max(...queueSizes));
}

/** What drivers have seen, and cannot change. */
function headOf({ deviceId, queueSizes, config }: VduseShape): Buffer {
  const shape = JSON.stringify([deviceId, queueSizes, config.length]);
  return Buffer.from(`nodevmm vduse 1 ${createHash('sha256').update(shape).digest('hex')}\n`);
}
