/**
 * A replay protected memory block device (virtio 1.3 §5.12), kept in memory. Linux has no driver for it: rpmb.c is one,
 * in userland.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { defineDevice } from 'nodevmm/device';

const REQ_PROGRAM_KEY = 1;
const REQ_GET_WRITE_COUNTER = 2;
const REQ_DATA_WRITE = 3;
const REQ_DATA_READ = 4;
const REQ_RESULT_READ = 5;

const RES_OK = 0;
const RES_GENERAL_FAILURE = 1;
const RES_AUTH_FAILURE = 2;
const RES_COUNT_FAILURE = 3;
const RES_ADDR_FAILURE = 4;
const RES_WRITE_FAILURE = 5;
const RES_NO_AUTH_KEY = 7;
/** Added to a result when no more writes are possible. */
const RES_WRITE_COUNTER_EXPIRED = 0x80;
const COUNTER_MAX = 0xffff_ffff;

// Offsets in a frame (§5.12.6).
const FRAME = 512;
const KEY_MAC = 196;
const DATA = 228;
const NONCE = 484;
const WRITE_COUNTER = 500;
const ADDRESS = 504;
const BLOCK_COUNT = 506;
const RESULT = 508;
const REQ_RESP = 510;

const BLOCK = 256;
/** Bytes that a unit of the field `capacity` means. */
const CAPACITY_UNIT = 128 * 1024;
const BLOCKS_MAX = 8;

const slice = (frame: Buffer, start: number, length: number): Buffer =>
  frame.subarray(start, start + length);

/** Of each frame a MAC covers all that is behind it. */
function macOf(key: Buffer, frames: readonly Buffer[]): Buffer {
  const hmac = createHmac('sha256', key);
  for (const frame of frames) hmac.update(frame.subarray(DATA));
  return hmac.digest();
}

/** What is protected, and who may change it. */
class Rpmb {
  readonly #blocks: Buffer;
  #key: Buffer | undefined;
  #counter = 0;

  constructor(capacity: number) {
    this.#blocks = Buffer.alloc(capacity * CAPACITY_UNIT);
  }

  /** @returns the frames of the answer */
  answer(frames: readonly Buffer[]): Buffer[] {
    const [first] = frames;
    if (first === undefined) return [];
    // Of a write all frames but the last, which asks for the result, are data.
    const wantsResult = frames.at(-1)?.readUInt16BE(REQ_RESP) === REQ_RESULT_READ;
    const commands = wantsResult ? frames.slice(0, -1) : frames;
    const type = first.readUInt16BE(REQ_RESP);
    switch (type) {
      case REQ_PROGRAM_KEY: {
        const result = this.#programKey(commands);
        return wantsResult ? [this.#frame(type, result)] : [];
      }
      case REQ_DATA_WRITE: {
        const result = this.#write(commands);
        return wantsResult ? this.#seal([this.#frame(type, result, first)]) : [];
      }
      case REQ_GET_WRITE_COUNTER:
        return this.#seal([this.#frame(type, this.#counterResult(first), first)]);
      case REQ_DATA_READ:
        return this.#seal(this.#read(first));
      default:
        return [this.#frame(type, RES_GENERAL_FAILURE)];
    }
  }

  #programKey([frame, ...rest]: readonly Buffer[]): number {
    if (frame === undefined || rest.length > 0) return RES_GENERAL_FAILURE;
    if (frame.readUInt16BE(BLOCK_COUNT) !== 1) return RES_GENERAL_FAILURE;
    if (this.#key !== undefined) return RES_WRITE_FAILURE;
    this.#key = Buffer.from(slice(frame, KEY_MAC, 32));
    return RES_OK;
  }

  #counterResult(frame: Buffer): number {
    if (this.#key === undefined) return RES_NO_AUTH_KEY;
    return frame.readUInt16BE(BLOCK_COUNT) > 1 ? RES_GENERAL_FAILURE : RES_OK;
  }

  #write(frames: readonly Buffer[]): number {
    const [first] = frames;
    const last = frames.at(-1);
    if (this.#key === undefined) return RES_NO_AUTH_KEY;
    if (first === undefined || last === undefined) return RES_GENERAL_FAILURE;
    if (frames.length > BLOCKS_MAX || first.readUInt16BE(BLOCK_COUNT) !== frames.length) {
      return RES_GENERAL_FAILURE;
    }
    if (this.#counter === COUNTER_MAX) return RES_WRITE_FAILURE;
    const at = this.#place(first);
    if (at === undefined) return RES_ADDR_FAILURE;
    if (!timingSafeEqual(macOf(this.#key, frames), slice(last, KEY_MAC, 32))) {
      return RES_AUTH_FAILURE;
    }
    if (first.readUInt32BE(WRITE_COUNTER) !== this.#counter) return RES_COUNT_FAILURE;
    for (const [index, frame] of frames.entries()) {
      slice(frame, DATA, BLOCK).copy(this.#blocks, at + index * BLOCK);
    }
    this.#counter += 1;
    return RES_OK;
  }

  #read(request: Buffer): Buffer[] {
    const type = REQ_DATA_READ;
    const count = request.readUInt16BE(BLOCK_COUNT);
    if (this.#key === undefined) return [this.#frame(type, RES_NO_AUTH_KEY, request)];
    if (count === 0 || count > BLOCKS_MAX) {
      return [this.#frame(type, RES_GENERAL_FAILURE, request)];
    }
    const at = this.#place(request);
    if (at === undefined) return [this.#frame(type, RES_ADDR_FAILURE, request)];
    return Array.from({ length: count }, (_, index) => {
      const frame = this.#frame(type, RES_OK, request);
      slice(this.#blocks, at + index * BLOCK, BLOCK).copy(frame, DATA);
      return frame;
    });
  }

  /** Where the blocks are that a frame names, if there are so many. */
  #place(frame: Buffer): number | undefined {
    const start = frame.readUInt16BE(ADDRESS) * BLOCK;
    const end = start + frame.readUInt16BE(BLOCK_COUNT) * BLOCK;
    return end <= this.#blocks.length ? start : undefined;
  }

  #frame(type: number, result: number, request?: Buffer): Buffer {
    const frame = Buffer.alloc(FRAME);
    if (request !== undefined) {
      slice(request, NONCE, 16).copy(frame, NONCE);
      frame.writeUInt16BE(request.readUInt16BE(ADDRESS), ADDRESS);
      frame.writeUInt16BE(request.readUInt16BE(BLOCK_COUNT), BLOCK_COUNT);
      frame.writeUInt32BE(this.#counter, WRITE_COUNTER);
    }
    const expired = this.#counter === COUNTER_MAX ? RES_WRITE_COUNTER_EXPIRED : 0;
    frame.writeUInt16BE(result | expired, RESULT);
    frame.writeUInt16BE(type << 8, REQ_RESP);
    return frame;
  }

  /** Proves who answers, to those who know the key. */
  #seal(frames: Buffer[]): Buffer[] {
    const last = frames.at(-1);
    if (this.#key !== undefined && last !== undefined) macOf(this.#key, frames).copy(last, KEY_MAC);
    return frames;
  }
}

export default defineDevice(({ capacity = '1' }: Readonly<Record<string, string>>) => {
  const units = Number(capacity);
  if (!Number.isInteger(units) || units < 1 || units > 128) {
    throw new Error(`capacity=${capacity}: 1 to 128 units of 128 KiB`);
  }
  const rpmb = new Rpmb(units);
  return {
    deviceId: 28,
    config: {
      capacity: { bytes: 1, initial: units },
      max_wr_cnt: { bytes: 1, initial: BLOCKS_MAX },
      max_rd_cnt: { bytes: 1, initial: BLOCKS_MAX },
    },
    queues: {
      requestq: {
        size: 16,
        handle(request) {
          if (request.readableLength > (BLOCKS_MAX + 1) * FRAME) {
            throw new Error(`a request of ${request.readableLength} bytes`);
          }
          const bytes = Buffer.from(request.read());
          const count = Math.floor(bytes.length / FRAME);
          const frames = Array.from({ length: count }, (_, i) => slice(bytes, i * FRAME, FRAME));
          const answer = Buffer.concat(rpmb.answer(frames));
          request.write(answer.subarray(0, request.writableLength));
        },
      },
    },
  };
});
