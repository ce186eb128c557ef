/**
 * The receive half of an 82540EM (SDM 3.2). A packet is read into memory of ours, since filters
 * and the length decide where it goes, and copied into as many of the driver's buffers as it takes.
 *
 * HOT.
 */
import * as e1000 from '../abi/e1000.ts';
import { EAGAIN } from '../abi/errno.ts';
import { virtio_net_hdr } from '../abi/virtio-net.ts';
import type { ReceiveErrors, TapQueue } from '../backend/tap-queue.ts';
import { NativeMemory } from '../host/native-memory.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { RegisterFile } from './register-file.ts';
import { Ring } from './ring.ts';

/** Packets between two looks at the thread's other events. */
const BUDGET = 64;
const HEADER = virtio_net_hdr.size;
const ETHERNET_HEADER = 14;
const ETHERNET_ADDRESSES = 12;
const VLAN_TAG = 4;
/** The frame check sequence, which a tap does not have: its bytes are zeros here. */
const FCS = 4;
/** SDM 13.4: without LPE, and with it. */
const LONGEST = 1522;
const LONGEST_WITH_LPE = 16384;
/** The shortest packet on a wire, FCS included: shorter ones were padded by their sender. */
const SHORTEST = 64;

/** By RCTL.BSEX and RCTL.BSIZE: bytes of a buffer; 16384 for the reserved value. */
const BUFFER_SIZES: readonly number[] = [2048, 1024, 512, 256, 16384, 16384, 8192, 4096];
const LENGTH = e1000.rx_desc.length.offset;
const STATUS = e1000.rx_desc.status.offset;

/** Takes packets from the tap to the ring. */
export class Receiver {
  /** Disabled, or out of buffers: the tap need not be polled. */
  idle = true;
  readonly errors: ReceiveErrors;
  /** The rule that the driver broke. */
  fault: string | null = null;
  readonly #file: RegisterFile;
  readonly #tap: TapQueue;
  readonly #memory: GuestMemory;
  readonly #ring: Ring;
  readonly #filter: ReceiveFilter;
  readonly #buffer = new NativeMemory(HEADER + LONGEST_WITH_LPE + FCS);

  constructor(memory: GuestMemory, file: RegisterFile, tap: TapQueue, errors: ReceiveErrors) {
    this.#file = file;
    this.#tap = tap;
    this.errors = errors;
    this.#memory = memory;
    this.#ring = new Ring(memory, file, e1000.RDBAL);
    this.#filter = new ReceiveFilter(file);
  }

  /** Receives what the tap has. Returns interrupt causes. */
  run(): number {
    const ring = this.#ring;
    const rctl = this.#file.get(e1000.RCTL);
    this.idle = true;
    if ((rctl & e1000.RCTL_EN) === 0 || this.errors.gone || this.errors.resting) return 0;
    this.fault = ring.load();
    if (this.fault !== null) return 0;
    const { address, bytes } = this.#buffer;
    const strip = (this.#file.get(e1000.CTRL) & e1000.CTRL_VME) !== 0;
    let causes = 0;
    for (let budget = BUDGET; budget > 0 && ring.head !== ring.tail; budget--) {
      const length = this.#tap.receiveInto(address, bytes.length - FCS);
      if (length <= 0) {
        if (length !== -EAGAIN) this.errors.failed(length);
        break;
      }
      this.errors.worked();
      if (length < HEADER + ETHERNET_HEADER) continue;
      causes |= this.#packet(length - HEADER, rctl, strip);
      if (this.fault !== null) return causes;
    }
    if ((causes & e1000.ICR_RXT0) !== 0 && this.#isLow(rctl)) causes |= e1000.ICR_RXDMT0;
    this.idle = ring.head === ring.tail || this.errors.gone || this.errors.resting;
    return causes;
  }

  /** Returns interrupt causes. */
  #packet(length: number, rctl: number, strip: boolean): number {
    const file = this.#file;
    const { view, bytes } = this.#buffer;
    file.count(e1000.TPR);
    file.countWide(e1000.TORL, Math.max(length + FCS, SHORTEST));
    const tagged = length >= ETHERNET_HEADER + VLAN_TAG && this.#filter.isTagged(view, HEADER);
    if (!this.#filter.accepts(view, HEADER, rctl, tagged)) return 0;
    const longest = (rctl & e1000.RCTL_LPE) === 0 ? LONGEST : LONGEST_WITH_LPE;
    if (length + FCS > longest) {
      file.count(e1000.ROC);
      return 0;
    }
    const multicast = (bytes[HEADER] as number) & 1;
    const broadcast = multicast === 1 && view.getUint32(HEADER) === 0xffff_ffff;
    let start = HEADER;
    let end = HEADER + length;
    let status = e1000.RXD_STAT_DD | e1000.RXD_STAT_IXSM;
    let tag = 0;
    if (tagged && strip) {
      tag = view.getUint16(start + ETHERNET_ADDRESSES + 2);
      bytes.copyWithin(start + VLAN_TAG, start, start + ETHERNET_ADDRESSES);
      start += VLAN_TAG;
      status |= e1000.RXD_STAT_VP;
    }
    // A tap may give what is shorter than a wire can carry.
    const shortest = start + SHORTEST - FCS;
    if (end < shortest) {
      bytes.fill(0, end, shortest);
      end = shortest;
    }
    if ((rctl & e1000.RCTL_SECRC) === 0) {
      bytes.fill(0, end, end + FCS);
      end += FCS;
    }
    const delivered = this.#deliver(start, end, rctl, status, tag);
    if (!delivered) return this.fault === null ? e1000.ICR_RXO : 0;
    file.count(e1000.GPRC);
    file.countWide(e1000.GORCL, Math.max(length + FCS, SHORTEST));
    if (broadcast) file.count(e1000.BPRC);
    else if (multicast === 1) file.count(e1000.MPRC);
    return e1000.ICR_RXT0;
  }

  /** Copies a packet into the buffers at the head. Returns false when it did not fit. */
  #deliver(start: number, end: number, rctl: number, status: number, tag: number): boolean {
    const ring = this.#ring;
    const memory = this.#memory;
    const size = bufferSize(rctl);
    if (Math.ceil((end - start) / size) > ring.owned) {
      this.#file.count(e1000.MPC);
      return false;
    }
    let at = ring.head;
    for (let from = start; from < end; ) {
      const length = Math.min(size, end - from);
      const descriptor = ring.descriptor(at);
      const gpa = memory.readU64(descriptor);
      const offset = memory.offset(gpa, length);
      if (offset < 0) {
        this.fault = `receive ring: ${length} bytes at 0x${gpa.toString(16)} are not in RAM`;
        return false;
      }
      memory.bytes(offset, length).set(this.#buffer.bytes.subarray(from, from + length));
      from += length;
      at = ring.next(at);
      // Length and checksum first: the status makes them valid for the driver.
      memory.writeU32(descriptor + LENGTH, length);
      const last = from === end ? e1000.RXD_STAT_EOP : 0;
      memory.writeU32(descriptor + STATUS, status | last | (tag << 16));
    }
    ring.advance(at);
    return true;
  }

  /** SDM 13.4, RDMTS: whether the free descriptors are down to a half, a quarter or an eighth. */
  #isLow(rctl: number): boolean {
    const threshold = this.#ring.count >>> (1 + ((rctl >>> e1000.RCTL_RDMTS_SHIFT) & 3));
    return this.#ring.owned <= threshold;
  }
}

function bufferSize(rctl: number): number {
  const extended = (rctl & e1000.RCTL_BSEX) === 0 ? 0 : 4;
  return BUFFER_SIZES[extended + ((rctl >>> e1000.RCTL_BSIZE_SHIFT) & 3)] as number;
}

const ETHERTYPE = 12;
/** By RCTL.MO: how far the last two bytes of an address are shifted to hash it. */
const HASH_SHIFTS: readonly number[] = [4, 3, 2, 0];

/**
 * Which packets get in (SDM 3.2.1), by the registers: exact addresses, a hash of group addresses, VLANs.
 * HOT.
 */
export class ReceiveFilter {
  readonly #file: RegisterFile;

  constructor(file: RegisterFile) {
    this.#file = file;
  }

  /**
   * @param packet at least an Ethernet header; from `at` on
   * @param tagged whether it has a VLAN tag
   */
  accepts(packet: DataView, at: number, rctl: number, tagged: boolean): boolean {
    if (tagged && (rctl & e1000.RCTL_VFE) !== 0) {
      const vlan = packet.getUint16(at + ETHERTYPE + 2) & 0xfff;
      if (((this.#file.get(e1000.VFTA + (vlan >>> 5) * 4) >>> (vlan & 31)) & 1) === 0) return false;
    }
    // As RAL and RAH hold an address: the first byte lowest.
    const low = packet.getUint32(at, true);
    const high = packet.getUint16(at + 4, true);
    if ((low & 1) === 0) return (rctl & e1000.RCTL_UPE) !== 0 || this.#isExact(low, high);
    if (low === 0xffff_ffff && high === 0xffff) {
      if ((rctl & e1000.RCTL_BAM) !== 0) return true;
    }
    return (rctl & e1000.RCTL_MPE) !== 0 || this.#isExact(low, high) || this.#isHashed(high, rctl);
  }

  /** Whether a packet has a tag of the kind that VET names. */
  isTagged(packet: DataView, at: number): boolean {
    return packet.getUint16(at + ETHERTYPE) === this.#file.get(e1000.VET);
  }

  #isExact(low: number, high: number): boolean {
    const file = this.#file;
    for (let i = 0; i < e1000.RA_ENTRIES; i++) {
      const upper = file.get(e1000.RA + 8 * i + 4);
      // AS, bits 16 and 17: 0 for destination addresses, all that is here.
      if (upper >>> 16 !== e1000.RAH_AV >>> 16 || (upper & 0xffff) !== high) continue;
      if (file.get(e1000.RA + 8 * i) === low) return true;
    }
    return false;
  }

  /** SDM 13.5.1. */
  #isHashed(high: number, rctl: number): boolean {
    const shift = HASH_SHIFTS[(rctl >>> e1000.RCTL_MO_SHIFT) & 3] as number;
    const hash = (high >>> shift) & 0xfff;
    return ((this.#file.get(e1000.MTA + (hash >>> 5) * 4) >>> (hash & 31)) & 1) === 1;
  }
}
