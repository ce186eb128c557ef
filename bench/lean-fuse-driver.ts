/** A driver of a file system device that costs next to nothing: see `LeanRequests`. */
import * as fuse from '../src/abi/fuse.ts';
import { LeanRequests, type LeanRequestsOptions } from './lean-requests.ts';

const { fuse_in_header: header, fuse_read_in: read, fuse_out_header: answer } = fuse;

/** One kind of request. */
export interface LeanFuseRequest {
  readonly opcode: number;
  readonly nodeid: bigint;
  /** What follows the header. */
  readonly body: Uint8Array;
  /** Bytes of the answer. */
  readonly room: number;
  /** READ: of a file of so many bytes, at random or one after the other. */
  readonly fileSize?: number;
  readonly random?: boolean;
}

/** Requests of one kind. */
export class LeanFuseDriver {
  readonly #requests: LeanRequests;

  /** @param from the ring's available index, where other drivers of the queue have ended */
  constructor(options: LeanRequestsOptions, wanted: LeanFuseRequest, from: number) {
    const { opcode, nodeid, body, room, fileSize = 0, random = false } = wanted;
    const segments = [
      { length: header.size, writable: false },
      { length: body.length, writable: false },
      { length: answer.size, writable: true },
      { length: room, writable: true },
    ];
    const places = Math.floor(fileSize / room);
    let next = 0;
    const prepare = (chain: number): void => {
      if (places === 0) return;
      const place = random ? Math.floor(Math.random() * places) : next++ % places;
      requests.views[chain]?.[1]?.setUint32(read.offset.offset, place * room, true);
    };
    const requests = new LeanRequests(options, segments, prepare, from);
    for (const [head, args] of requests.views) {
      head?.setUint32(header.len.offset, header.size + body.length, true);
      head?.setUint32(header.opcode.offset, opcode, true);
      // 0 is for what is no answer.
      head?.setUint32(header.unique.offset, 1, true);
      head?.setBigUint64(header.nodeid.offset, nodeid, true);
      body.forEach((byte, i) => {
        args?.setUint8(i, byte);
      });
    }
    this.#requests = requests;
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    this.#requests.run(requests);
  }

  /** True when the request that each chain had last was answered in full. */
  get succeeded(): boolean {
    const whole = answer.size + (this.#requests.views[0]?.[3]?.byteLength ?? 0);
    return this.#requests.views.every(([, , head]) => {
      return head?.getUint32(0, true) === whole && head.getInt32(4, true) === 0;
    });
  }

  /** The answer that came last. */
  get answer(): DataView {
    return this.#requests.views[0]?.[3] as DataView;
  }
}
