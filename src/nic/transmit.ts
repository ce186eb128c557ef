/**
 * The transmit half of an 82540EM (SDM 3.3 to 3.5): legacy, context and data descriptors. The
 * kernel takes a packet's bytes straight from guest RAM; checksums and segmentation that the driver
 * leaves to the hardware are left to the tap, by the virtio-net header in front of the packet.
 *
 * HOT.
 */
import * as e1000 from '../abi/e1000.ts';
import { EAGAIN } from '../abi/errno.ts';
import type { TapQueue } from '../backend/tap-queue.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { RegisterFile } from './register-file.ts';
import { Ring } from './ring.ts';
import { TransmitPacket } from './transmit-packet.ts';

/** Packets between two looks at the thread's other events. */
const BUDGET = 128;
const LOWER = e1000.tx_desc.lower.offset;
const UPPER = e1000.tx_desc.upper.offset;
/** The frame check sequence that the wire adds, for the octet counters. */
const FCS = 4;

/** What `#gather` found at the head. */
const INCOMPLETE = 0;
const CONTEXT = 1;
const PACKET = 2;
const FAULT = 3;

/** Takes packets from the ring to the tap. */
export class Transmitter {
  /** The tap was full: nothing is sent until it is writable. */
  blocked = false;
  /** The budget was used up, and there is more. */
  unfinished = false;
  /** The rule that the driver broke. */
  fault: string | null = null;
  readonly #file: RegisterFile;
  readonly #tap: TapQueue;
  readonly #ring: Ring;
  readonly #memory: GuestMemory;
  readonly #packet: TransmitPacket;
  /** The descriptor after those that were gathered. */
  #end = 0;

  constructor(memory: GuestMemory, file: RegisterFile, tap: TapQueue) {
    this.#file = file;
    this.#tap = tap;
    this.#memory = memory;
    this.#ring = new Ring(memory, file, e1000.TDBAL);
    this.#packet = new TransmitPacket(memory);
  }

  /** Sends what the driver put into the ring. Returns interrupt causes. */
  run(): number {
    const ring = this.#ring;
    const tctl = this.#file.get(e1000.TCTL);
    this.unfinished = false;
    if ((tctl & e1000.TCTL_EN) === 0 || this.blocked) return 0;
    this.fault = ring.load();
    if (this.fault !== null || ring.head === ring.tail) return 0;
    const vlan = (this.#file.get(e1000.CTRL) & e1000.CTRL_VME) !== 0;
    let causes = 0;
    for (let budget = BUDGET; budget > 0 && ring.head !== ring.tail; budget--) {
      const found = this.#gather();
      if (found === INCOMPLETE || found === FAULT) return causes;
      if (found === PACKET && !this.#send(tctl, vlan)) return causes;
      if (this.#complete()) causes |= e1000.ICR_TXDW;
    }
    this.unfinished = ring.head !== ring.tail;
    return this.unfinished ? causes : causes | e1000.ICR_TXQE;
  }

  /** Collects one packet, or takes one context descriptor. */
  #gather(): number {
    const ring = this.#ring;
    const memory = this.#memory;
    const packet = this.#packet;
    packet.clear();
    for (let at = ring.head; at !== ring.tail; ) {
      const offset = ring.descriptor(at);
      const lower = memory.readU32(offset + LOWER) | 0;
      const extended = (lower & e1000.TXD_CMD_DEXT) !== 0;
      const type = extended ? (lower >>> e1000.TXD_DTYP_SHIFT) & 0xf : e1000.TXD_DTYP_DATA;
      this.#end = at = ring.next(at);
      if (type === e1000.TXD_DTYP_CONTEXT && packet.descriptors === 0) {
        for (let i = 0; i < 4; i++) this.#file.context[i] = memory.readU32(offset + 4 * i);
        return CONTEXT;
      }
      if (type !== e1000.TXD_DTYP_DATA) {
        return this.#broke(`a descriptor of type ${type} in the middle of a packet`);
      }
      const length = lower & (extended ? e1000.TXD_EXT_LENGTH : 0xffff);
      const upper = memory.readU32(offset + UPPER) | 0;
      const reason = packet.add(memory.readU64(offset), length, lower, upper);
      if (reason !== null) return this.#broke(reason);
      if ((lower & e1000.TXD_CMD_EOP) !== 0) return PACKET;
    }
    return INCOMPLETE;
  }

  /** Returns false when the tap is full. */
  #send(tctl: number, vlan: boolean): boolean {
    const packet = this.#packet;
    const file = this.#file;
    if (!packet.prepare(file.context, tctl, vlan)) return true;
    const sent = this.#tap.transmit(packet.iovecAddress, packet.iovecs);
    if (sent === -EAGAIN) {
      this.blocked = true;
      return false;
    }
    // What makes no sense the kernel refuses: lost, as on a wire.
    if (sent <= 0) return true;
    const octets = packet.length + FCS;
    file.count(e1000.GPTC);
    file.count(e1000.TPT);
    file.countWide(e1000.GOTCL, octets);
    file.countWide(e1000.TOTL, octets);
    if (packet.segmented) file.count(e1000.TSCTC);
    if (packet.broadcast) file.count(e1000.BPTC);
    else if (packet.multicast) file.count(e1000.MPTC);
    return true;
  }

  /** Gives the descriptors back. Returns whether the driver wants an interrupt. */
  #complete(): boolean {
    const ring = this.#ring;
    const memory = this.#memory;
    let report = false;
    for (let at = ring.head; at !== this.#end; at = ring.next(at)) {
      const offset = ring.descriptor(at);
      if ((memory.readU32(offset + LOWER) & e1000.TXD_CMD_RS) === 0) continue;
      report = true;
      memory.writeU8(offset + UPPER, memory.readU8(offset + UPPER) | e1000.TXD_STAT_DD);
    }
    ring.advance(this.#end);
    return report;
  }

  #broke(reason: string): number {
    this.fault = `transmit ring: ${reason}`;
    return FAULT;
  }
}
