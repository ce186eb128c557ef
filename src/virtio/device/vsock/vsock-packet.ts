/** The header of a socket device's packets (virtio 1.3 §5.10.6), decoded and encoded. */
import { virtio_vsock_hdr as hdr, VIRTIO_VSOCK_TYPE_STREAM } from '../../../abi/virtio-vsock.ts';

/** Bytes of a header; the payload follows it. */
export const HEADER_SIZE: number = hdr.size;

/** One header; reused for each packet. */
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
