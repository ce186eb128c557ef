/** A frontend that checks nothing: bytes and descriptors go into the socket as they are. */
import { writeSync } from 'node:fs';
import * as vu from '../../src/abi/vhost-user.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTQ_DESC_F_AVAIL,
} from '../../src/abi/virtio-ring.ts';
import { NativeMemory } from '../../src/host/native-memory.ts';
import { UnixSocket } from '../../src/host/unix-socket.ts';
import * as payload from '../../src/vhost-user/payload.ts';
import { inflightRegionSize } from '../../src/virtio/queue/inflight/inflight-region.ts';
import { type FileKind, PeerFiles } from './peer-files.ts';

export const MEMORY_BYTES: number = 2 ** 20;
/** Where it claims to map its memory. */
export const USER: bigint = 0x7f00_0000_0000n;
const QUEUE_SIZE = 64;
export const RECORD_BYTES: number = 4096 * 2;
/** Room for a ring, and its parts, in bytes. */
const RING = 0x1000;
const AVAIL = 0x400;
const USED = 0x800;

/** Connected from its making to its end. Its memory it writes to by descriptor: it may shrink. */
export class RawFrontend implements Disposable {
  readonly #socket: UnixSocket;
  readonly files: PeerFiles;
  readonly #incoming = new NativeMemory(4096);
  readonly #available = new Map<number, number>();

  constructor(socketPath: string) {
    this.#socket = UnixSocket.connect(socketPath);
    this.files = new PeerFiles(MEMORY_BYTES, RECORD_BYTES, this.#socket.fd);
  }

  /** What the socket does not take is lost. */
  send(bytes: Uint8Array, fds: readonly number[]): void {
    if (bytes.length === 0) return;
    const native = new NativeMemory(bytes.length);
    native.bytes.set(bytes);
    this.#socket.send(native, 0, bytes.length, fds);
  }

  /** Drops what the backend has answered. */
  drain(): void {
    const fds: Parameters<UnixSocket['receive']>[3] = [];
    while (this.#socket.receive(this.#incoming, 0, 4096, fds) > 0);
    for (const fd of fds) fd.close();
  }

  /**
   * @param bytes of its payload, which the words fill again and again
   * @param announced by how much more the header says
   */
  say(
    request: number,
    flags: number,
    words: readonly bigint[],
    bytes: number,
    announced: number,
    kind: FileKind,
    files: number,
  ): void {
    const view = new DataView(new ArrayBuffer(12 + bytes + 8));
    view.setUint32(0, request, true);
    view.setUint32(4, flags, true);
    view.setUint32(8, bytes + announced, true);
    for (let at = 0; at < bytes; at += 8) {
      view.setBigUint64(12 + at, words[(at / 8) % words.length] ?? 0n, true);
    }
    const fds = Array.from({ length: Math.min(files, 8) }, () => this.files.get(kind));
    this.send(new Uint8Array(view.buffer, 0, 12 + bytes), fds);
  }

  #order(request: number, body: DataView<ArrayBuffer>, fds: readonly number[] = []): void {
    const bytes = new Uint8Array(12 + body.byteLength);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, request, true);
    view.setUint32(4, vu.VHOST_USER_VERSION, true);
    view.setUint32(8, body.byteLength, true);
    bytes.set(new Uint8Array(body.buffer), 12);
    this.send(bytes, fds);
  }

  /** As a proper frontend begins, up to its rings. */
  begin(packed: boolean, recorded: boolean, rings: number): void {
    const protocol = featureSet(
      vu.VHOST_USER_PROTOCOL_F_MQ,
      vu.VHOST_USER_PROTOCOL_F_REPLY_ACK,
      vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
      vu.VHOST_USER_PROTOCOL_F_CONFIG,
      vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
      vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    );
    const features = [VIRTIO_F_VERSION_1, vu.VHOST_USER_F_PROTOCOL_FEATURES];
    if (packed) features.push(VIRTIO_F_RING_PACKED);
    this.#order(vu.VHOST_USER_SET_PROTOCOL_FEATURES, payload.writeU64(protocol));
    this.#order(vu.VHOST_USER_SET_FEATURES, payload.writeU64(featureSet(...features)));
    this.shareMemory();
    if (recorded) {
      const mmapSize = rings * inflightRegionSize(QUEUE_SIZE);
      const area = { mmapSize, mmapOffset: 0, queues: rings, queueSize: QUEUE_SIZE };
      const fds = [this.files.get('record')];
      this.#order(vu.VHOST_USER_SET_INFLIGHT_FD, payload.writeInflight(area), fds);
    }
    for (let ring = 0; ring < rings; ring++) this.setUpRing(ring, 16, packed);
  }

  shareMemory(): void {
    const region = { gpa: 0, size: MEMORY_BYTES, userAddress: Number(USER), mmapOffset: 0 };
    const table = payload.writeMemoryTable([region]);
    this.#order(vu.VHOST_USER_SET_MEM_TABLE, table, [this.files.get('memory')]);
  }

  setUpRing(index: number, size: number, packed: boolean): void {
    const start = Number(USER) + index * RING;
    const base = packed ? 0x8000_8000 : 0;
    this.#available.delete(index);
    this.#order(vu.VHOST_USER_SET_VRING_NUM, payload.writeVringNumber({ index, num: size }));
    this.#order(vu.VHOST_USER_SET_VRING_BASE, payload.writeVringNumber({ index, num: base }));
    const address = { descriptor: start, available: start + AVAIL, used: start + USED };
    const places = payload.writeVringAddress({ index, flags: 0, ...address });
    this.#order(vu.VHOST_USER_SET_VRING_ADDR, places);
    const fds = [this.files.get('eventfd')];
    for (const request of [vu.VHOST_USER_SET_VRING_CALL, vu.VHOST_USER_SET_VRING_KICK]) {
      this.#order(request, payload.writeVringFd(index, true), fds);
    }
    this.#order(vu.VHOST_USER_SET_VRING_ENABLE, payload.writeVringNumber({ index, num: 1 }));
  }

  /** Writes descriptors, and makes them available. The eventfd that calls also kicks. */
  makeAvailable(
    index: number,
    packed: boolean,
    words: readonly bigint[],
    flags: readonly number[],
    ahead: number,
  ): void {
    const memory = this.files.get('memory');
    const start = index * RING;
    const descriptors = new DataView(new ArrayBuffer(16 * 4));
    for (let i = 0; i < 4; i++) {
      const at = i * 16;
      const isInside = (flags[i] ?? 0) % 2 === 0;
      const word = words[i % words.length] ?? 0n;
      descriptors.setBigUint64(at, isInside ? 0x8000n + BigInt(i) * 64n : word - USER, true);
      descriptors.setUint32(at + 8, isInside ? 64 : Number(word & 0xffffn), true);
      const kind = flags[i] ?? 0;
      descriptors.setUint16(at + (packed ? 12 : 14), (i + 1) % 4, true);
      descriptors.setUint16(
        at + (packed ? 14 : 12),
        packed ? kind | VIRTQ_DESC_F_AVAIL : kind,
        true,
      );
    }
    writeSync(memory, descriptors, 0, descriptors.byteLength, start);
    if (!packed) {
      const heads = Uint16Array.of(...flags);
      writeSync(memory, heads, 0, heads.byteLength, start + AVAIL + 4);
      const next = ((this.#available.get(index) ?? 0) + ahead) & 0xffff;
      this.#available.set(index, next);
      writeSync(memory, Uint16Array.of(next), 0, 2, start + AVAIL + 2);
    }
    writeSync(this.files.get('eventfd'), BigUint64Array.of(1n));
  }

  [Symbol.dispose](): void {
    this.#socket.close();
    this.files[Symbol.dispose]();
  }
}
