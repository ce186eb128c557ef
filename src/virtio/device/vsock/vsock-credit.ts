/** How many bytes may be under way on a connection (virtio 1.3 §5.10.6.3); counters are modulo 2^32. */
import type { PacketHeader } from './vsock-packet.ts';

/** Bytes from the guest that may wait for the host's program: `buf_alloc` of every packet. */
export const BUFFER: number = 128 * 1024;
/** The guest is sent a credit update when it knows of that much less space. */
const UPDATE_STEP = BUFFER / 4;

/** The credit of one connection, both ways. */
export class VsockCredit {
  /** Payload bytes to the guest, and what it said of its buffer. */
  #sent = 0;
  #peerBufAlloc = 0;
  #peerFwdCnt = 0;
  /** Payload bytes from the guest, those of them that the host took, and what it knows of them. */
  #received = 0;
  #forwarded = 0;
  #told = 0;

  /** Hears what the guest says of itself. */
  learn(header: PacketHeader): void {
    this.#peerBufAlloc = header.bufAlloc;
    this.#peerFwdCnt = header.fwdCnt;
  }

  /** Bytes that the guest has room for; none when it claims what cannot be. */
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

  /** The host took bytes. @returns whether the guest should hear of it */
  forwarded(bytes: number): boolean {
    this.#forwarded = (this.#forwarded + bytes) >>> 0;
    return (this.#forwarded - this.#told) >>> 0 >= UPDATE_STEP;
  }

  /** Tells the guest, as every packet does. */
  tell(header: PacketHeader): void {
    header.bufAlloc = BUFFER;
    header.fwdCnt = this.#forwarded;
    this.#told = this.#forwarded;
  }
}
