/** The header of a socket device's packets (virtio 1.3 §5.10.6), and the credit that it carries. */
import { virtio_vsock_hdr as hdr, VIRTIO_VSOCK_TYPE_STREAM } from '../../../abi/virtio-vsock.ts';

/** Bytes of a header; the payload follows it. */
export const HEADER_SIZE: number = hdr.size;

/** One header, decoded and encoded; reused for each packet. */
export class PacketHeader {
  /** Context IDs. Above 2^53 they are rounded, which cannot yield one that is in use. */
  srcCid = 0;
  dstCid = 0;
  srcPort = 0;
  dstPort = 0;
  /** Bytes of payload. */
  len = 0;
  type: number = VIRTIO_VSOCK_TYPE_STREAM;
  op = 0;
  flags = 0;
  bufAlloc = 0;
  fwdCnt = 0;
  /** The header in guest memory's format. */
  readonly bytes = new Uint8Array(HEADER_SIZE);
  readonly #view = new DataView(this.bytes.buffer);

  /** Decodes `bytes`. */
  decode(): void {
    const view = this.#view;
    this.srcCid = this.#cid(hdr.src_cid.offset);
    this.dstCid = this.#cid(hdr.dst_cid.offset);
    this.srcPort = view.getUint32(hdr.src_port.offset, true);
    this.dstPort = view.getUint32(hdr.dst_port.offset, true);
    this.len = view.getUint32(hdr.len.offset, true);
    this.type = view.getUint16(hdr.type.offset, true);
    this.op = view.getUint16(hdr.op.offset, true);
    this.flags = view.getUint32(hdr.flags.offset, true);
    this.bufAlloc = view.getUint32(hdr.buf_alloc.offset, true);
    this.fwdCnt = view.getUint32(hdr.fwd_cnt.offset, true);
  }

  /** Encodes `bytes`. Context IDs have 32 bits here: the upper ones are zero (§5.10.6). */
  encode(): void {
    const view = this.#view;
    this.bytes.fill(0);
    view.setUint32(hdr.src_cid.offset, this.srcCid, true);
    view.setUint32(hdr.dst_cid.offset, this.dstCid, true);
    view.setUint32(hdr.src_port.offset, this.srcPort, true);
    view.setUint32(hdr.dst_port.offset, this.dstPort, true);
    view.setUint32(hdr.len.offset, this.len, true);
    view.setUint16(hdr.type.offset, this.type, true);
    view.setUint16(hdr.op.offset, this.op, true);
    view.setUint32(hdr.flags.offset, this.flags, true);
    view.setUint32(hdr.buf_alloc.offset, this.bufAlloc, true);
    view.setUint32(hdr.fwd_cnt.offset, this.fwdCnt, true);
  }

  #cid(offset: number): number {
    return this.#view.getUint32(offset, true) + this.#view.getUint32(offset + 4, true) * 2 ** 32;
  }
}

/** Bytes from the guest that may wait for the host's program: `buf_alloc` of every packet. */
export const BUFFER: number = 128 * 1024;
/** The guest is sent a credit update when its view of our space is this much too low. */
const UPDATE_STEP = BUFFER / 4;

/** How many bytes may be in flight on one connection, both ways (§5.10.6.3); counters are modulo 2^32. */
export class VsockCredit {
  /** Payload bytes to the guest, and the credit it reported. */
  #sent = 0;
  #peerBufAlloc = 0;
  #peerFwdCnt = 0;
  /** Payload bytes from the guest, how many the host took, and how many of those the guest knows of. */
  #received = 0;
  #forwarded = 0;
  #announced = 0;

  /** Reads the guest's credit from its packet. */
  learn(header: PacketHeader): void {
    this.#peerBufAlloc = header.bufAlloc;
    this.#peerFwdCnt = header.fwdCnt;
  }

  /** Bytes that the guest has room for; none when its credit is impossible. */
  get peerFree(): number {
    const underway = (this.#sent - this.#peerFwdCnt) >>> 0;
    return Math.max(0, this.#peerBufAlloc - underway);
  }

  sent(bytes: number): void {
    this.#sent = (this.#sent + bytes) >>> 0;
  }

  /** @returns false when the guest sends more than it may */
  received(bytes: number): boolean {
    const used = (this.#received - this.#forwarded) >>> 0;
    if (bytes > BUFFER - used) return false;
    this.#received = (this.#received + bytes) >>> 0;
    return true;
  }

  /** The host took bytes. @returns whether the guest should get an update */
  forwarded(bytes: number): boolean {
    this.#forwarded = (this.#forwarded + bytes) >>> 0;
    return (this.#forwarded - this.#announced) >>> 0 >= UPDATE_STEP;
  }

  /** Writes our credit into a packet to the guest. */
  announce(header: PacketHeader): void {
    header.bufAlloc = BUFFER;
    header.fwdCnt = this.#forwarded;
    this.#announced = this.#forwarded;
  }
}
