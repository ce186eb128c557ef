/**
 * The receive half of an 82540EM (SDM 3.2). A packet is read into memory of ours, since filters
 * and the length decide where it goes, and copied into as many of the driver's buffers as it takes.
 *
 * HOT.
 */
import {
  BPRC,
  CTRL,
  CTRL_VME,
  GORCL,
  GPRC,
  ICR_RXDMT0,
  ICR_RXO,
  ICR_RXT0,
  MPC,
  MPRC,
  RCTL,
  RCTL_BSEX,
  RCTL_BSIZE_SHIFT,
  RCTL_EN,
  RCTL_LPE,
  RCTL_RDMTS_SHIFT,
  RCTL_SECRC,
  RDBAL,
  ROC,
  RXD_STAT_DD,
  RXD_STAT_EOP,
  RXD_STAT_IXSM,
  RXD_STAT_VP,
  rx_desc,
  TORL,
  TPR,
} from '../abi/e1000.ts';
import { virtio_net_hdr } from '../abi/virtio-net.ts';
import type { ReceiveErrors } from '../backend/receive-errors.ts';
import { EAGAIN, type TapQueue } from '../backend/tap-queue.ts';
import { NativeMemory } from '../host/native-memory.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { ReceiveFilter } from './receive-filter.ts';
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

/** By RCTL.BSEX and RCTL.BSIZE: bytes of a buffer; 16384 for the one that is reserved. */
const BUFFER_SIZES: readonly number[] = [2048, 1024, 512, 256, 16384, 16384, 8192, 4096];
const LENGTH = rx_desc.length.offset;
const STATUS = rx_desc.status.offset;

/** Takes packets from the tap to the ring. */
export class Receiver {
  /** Disabled, or out of buffers: the tap need not be looked at. */
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
    this.#ring = new Ring(memory, file, RDBAL);
    this.#filter = new ReceiveFilter(file);
  }

  /** Receives what the tap has. Returns interrupt causes. */
  run(): number {
    const ring = this.#ring;
    const rctl = this.#file.get(RCTL);
    this.idle = true;
    if ((rctl & RCTL_EN) === 0 || this.errors.gone || this.errors.resting) return 0;
    this.fault = ring.load();
    if (this.fault !== null) return 0;
    const { address, bytes } = this.#buffer;
    const strip = (this.#file.get(CTRL) & CTRL_VME) !== 0;
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
    if ((causes & ICR_RXT0) !== 0 && this.#isLow(rctl)) causes |= ICR_RXDMT0;
    this.idle = ring.head === ring.tail || this.errors.gone || this.errors.resting;
    return causes;
  }

  /** Returns interrupt causes. */
  #packet(length: number, rctl: number, strip: boolean): number {
    const file = this.#file;
    const { view, bytes } = this.#buffer;
    file.count(TPR);
    file.countWide(TORL, Math.max(length + FCS, SHORTEST));
    const tagged = length >= ETHERNET_HEADER + VLAN_TAG && this.#filter.isTagged(view, HEADER);
    if (!this.#filter.accepts(view, HEADER, rctl, tagged)) return 0;
    const longest = (rctl & RCTL_LPE) === 0 ? LONGEST : LONGEST_WITH_LPE;
    if (length + FCS > longest) {
      file.count(ROC);
      return 0;
    }
    const multicast = (bytes[HEADER] as number) & 1;
    const broadcast = multicast === 1 && view.getUint32(HEADER) === 0xffff_ffff;
    let start = HEADER;
    let end = HEADER + length;
    let status = RXD_STAT_DD | RXD_STAT_IXSM;
    let tag = 0;
    if (tagged && strip) {
      tag = view.getUint16(start + ETHERNET_ADDRESSES + 2);
      bytes.copyWithin(start + VLAN_TAG, start, start + ETHERNET_ADDRESSES);
      start += VLAN_TAG;
      status |= RXD_STAT_VP;
    }
    // A tap may give what is shorter than a wire can carry.
    const shortest = start + SHORTEST - FCS;
    if (end < shortest) {
      bytes.fill(0, end, shortest);
      end = shortest;
    }
    if ((rctl & RCTL_SECRC) === 0) {
      bytes.fill(0, end, end + FCS);
      end += FCS;
    }
    if (!this.#deliver(start, end, rctl, status, tag)) return this.fault === null ? ICR_RXO : 0;
    file.count(GPRC);
    file.countWide(GORCL, Math.max(length + FCS, SHORTEST));
    if (broadcast) file.count(BPRC);
    else if (multicast === 1) file.count(MPRC);
    return ICR_RXT0;
  }

  /** Copies a packet into the buffers at the head. Returns false when it did not fit. */
  #deliver(start: number, end: number, rctl: number, status: number, tag: number): boolean {
    const ring = this.#ring;
    const memory = this.#memory;
    const size = bufferSize(rctl);
    if (Math.ceil((end - start) / size) > ring.owned) {
      this.#file.count(MPC);
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
      // Length and checksum first: the status tells the driver that they are there.
      memory.writeU32(descriptor + LENGTH, length);
      const last = from === end ? RXD_STAT_EOP : 0;
      memory.writeU32(descriptor + STATUS, status | last | (tag << 16));
    }
    ring.advance(at);
    return true;
  }

  /** SDM 13.4, RDMTS: whether the free descriptors are down to a half, a quarter or an eighth. */
  #isLow(rctl: number): boolean {
    const threshold = this.#ring.count >>> (1 + ((rctl >>> RCTL_RDMTS_SHIFT) & 3));
    return this.#ring.owned <= threshold;
  }
}

function bufferSize(rctl: number): number {
  const extended = (rctl & RCTL_BSEX) === 0 ? 0 : 4;
  return BUFFER_SIZES[extended + ((rctl >>> RCTL_BSIZE_SHIFT) & 3)] as number;
}
