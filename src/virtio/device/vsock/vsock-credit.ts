/** How many bytes may be in flight on a connection (virtio 1.3 §5.10.6.3); counters are modulo 2^32. */
import type { PacketHeader } from './vsock-packet.ts';

/** Bytes from the guest that may wait for the host's program: `buf_alloc` of every packet. */
export const BUFFER: number = 128 * 1024;
/** The guest is sent a credit update when its view of our space is this much too low. */
const UPDATE_STEP = BUFFER / 4;

/** The credit of one connection, both ways. */
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
