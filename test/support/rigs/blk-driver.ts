/** The driver's side of a block device, as the tests play it. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  virtio_blk_discard_write_zeroes,
  virtio_blk_req,
} from '../../../src/abi/virtio-blk.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { type CompletedBuffer, DeviceRig } from '../../../src/testing/index.ts';
import { type BlkOptions, createBlkDevice } from '../../../src/virtio/device/blk/blk.ts';
import type { QueueHandler, VirtioDevice } from '../../../src/virtio/device.ts';

/** A folder that goes when the test is over. */
export class TemporaryFolder implements Disposable {
  readonly path: string;

  /** @param inMemory on tmpfs where there is one: flushes cost nothing there */
  constructor(inMemory = false) {
    const parent = inMemory && existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
    this.path = mkdtempSync(join(parent, 'nodevmm-test-'));
  }

  /** Writes a file of `content`, or of so many zero bytes. Returns its path. */
  file(name: string, content: Uint8Array | number): string {
    const path = join(this.path, name);
    writeFileSync(path, typeof content === 'number' ? new Uint8Array(content) : content);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

/** What became of a request. */
export interface BlkResult {
  readonly status: number;
  /** The writable part before the status. */
  readonly data: Uint8Array;
  readonly written: number;
}

/** Bytes of a request's header. */
export function blkHeader(type: number, sector: number | bigint): Uint8Array {
  const bytes = new Uint8Array(virtio_blk_req.size);
  const view = new DataView(bytes.buffer);
  view.setUint32(virtio_blk_req.type.offset, type, true);
  view.setBigUint64(virtio_blk_req.sector.offset, BigInt(sector), true);
  return bytes;
}

/** Bytes of a segment of a discard or write zeroes request. */
export function blkRange(sector: number | bigint, sectors: number, flags = 0): Uint8Array {
  const layout = virtio_blk_discard_write_zeroes;
  const bytes = new Uint8Array(layout.size);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(layout.sector.offset, BigInt(sector), true);
  view.setUint32(layout.num_sectors.offset, sectors, true);
  view.setUint32(layout.flags.offset, flags, true);
  return bytes;
}

/** The status byte, the last one of the writable part (§5.2.6). */
export function blkResult(buffer: CompletedBuffer): BlkResult {
  const { writable, written } = buffer;
  return { status: writable.at(-1) ?? -1, data: writable.subarray(0, -1), written };
}

/** What a test may set; the rest has the device's defaults. */
export interface BlkDriverOptions extends Partial<BlkOptions> {
  /** Feature bit numbers to leave out. */
  readonly without?: readonly number[];
  /** Feature bit numbers to negotiate besides the device's. */
  readonly ring?: readonly number[];
  /** The data half. Default: the device's own. */
  readonly handler?: QueueHandler;
}

/** A block device in a rig, with a driver that waits for each request. */
export class BlkDriver implements Disposable {
  readonly device: VirtioDevice;
  readonly rig = new DeviceRig(16 * MiB);

  constructor(path: string, options: BlkDriverOptions = {}) {
    const { without = [], ring = [], handler, ...device } = options;
    this.device = createBlkDevice({ name: 'blk0', queueSize: 64, ...device, path });
    const offered = this.device.features | featureSet(VIRTIO_F_VERSION_1, ...ring);
    const made = handler ?? (this.device.createHandler as () => QueueHandler).call(this.device);
    const sizes = this.device.queues.map((queue) => queue.maxSize);
    this.rig.start(made, offered & ~featureSet(...without), sizes);
  }

  /** Sends a request in any layout, and waits for its end. */
  send(readable: readonly Uint8Array[], writable: readonly number[], queue = 0): BlkResult {
    const driver = this.rig.queue(queue);
    driver.add({ readable, writable });
    this.rig.kick(queue);
    const done: CompletedBuffer[] = [];
    this.rig.pumpUntil(() => done.push(...driver.completed()) > 0, 'the request');
    return blkResult(done[0] as CompletedBuffer);
  }

  /** Sends a request in the layout that Linux uses. */
  request(type: number, sector: number | bigint, data: Uint8Array | number = 0): BlkResult {
    const readable = [blkHeader(type, sector)];
    if (typeof data !== 'number') readable.push(data);
    return this.send(readable, typeof data === 'number' && data > 0 ? [data, 1] : [1]);
  }

  read(sector: number | bigint, length: number): BlkResult {
    return this.request(VIRTIO_BLK_T_IN, sector, length);
  }

  write(sector: number | bigint, data: Uint8Array): BlkResult {
    return this.request(VIRTIO_BLK_T_OUT, sector, data);
  }

  discard(sector: number | bigint, sectors: number, flags = 0): BlkResult {
    return this.request(VIRTIO_BLK_T_DISCARD, 0, blkRange(sector, sectors, flags));
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.device.close();
  }
}
