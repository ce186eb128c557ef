/**
 * A packet being sent: its segments in guest RAM, what the driver wants the hardware to do, and
 * the iovec that passes all of it to a tap.
 *
 * A header is copied only where the hardware changes it: for a VLAN tag, an IPv4 header checksum,
 * or segmentation, of which the kernel wants the lengths in the headers to be those of the whole.
 *
 * HOT.
 */
import * as e1000 from '../abi/e1000.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  virtio_net_hdr,
} from '../abi/virtio-net.ts';
import { NativeMemory } from '../host/native-memory.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';

/** Descriptors of one packet: Linux uses up to about 20. */
const SEGMENTS_MAX = 256;
/** The longest packet with its headers: what IP can hold, and Ethernet's header with a tag. */
const LENGTH_MAX = 65535 + 18;
const IOVEC_SIZE = 16;
/** Behind the segments: virtio-net header, copied header, padding. */
const IOVECS = SEGMENTS_MAX + 3;
const ETHERNET_ADDRESSES = 12;
const ETHERNET_HEADER = 14;
const VLAN_TAG = 4;
const ETH_P_8021Q = 0x8100;
/** A header's end is a byte of a context descriptor; a checksum's end in it can be anything. */
const HEADER_MAX = 256;
/** SDM 13.4, PSP: what is shorter is padded, the frame check sequence aside. */
const SHORTEST = 60;
const IPV6_HEADER = 40;
const TCP_FLAGS = 13;
const TCP_CWR = 0x80;

const header = virtio_net_hdr;

/** A packet being gathered, one at a time. */
export class TransmitPacket {
  /** Bytes of the packet as the driver gave it. */
  length = 0;
  descriptors = 0;
  /** Commands of the last descriptor: those of VLAN tags and legacy checksums count. */
  lower = 0;
  readonly iovecAddress: number;
  /** How many of them `prepare` used. */
  iovecs = 0;
  /** It is more than one on the wire. */
  segmented = false;
  broadcast = false;
  multicast = false;
  readonly #memory: GuestMemory;
  readonly #iovec = new NativeMemory(IOVECS * IOVEC_SIZE);
  /** The virtio-net header, the copied header, and zeros to pad with. */
  readonly #vnet = new NativeMemory(header.size);
  readonly #head = new NativeMemory(HEADER_MAX + VLAN_TAG);
  readonly #zeros = new NativeMemory(SHORTEST);
  /** Places in RAM and lengths. */
  readonly #offsets = new Float64Array(SEGMENTS_MAX);
  readonly #lengths = new Int32Array(SEGMENTS_MAX);
  #segments = 0;
  /** Commands and options of the first descriptor: those of offloads count (SDM 3.3.7). */
  #firstLower = 0;
  #firstUpper = 0;
  #upper = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.iovecAddress = this.#iovec.address;
  }

  clear(): void {
    this.length = 0;
    this.descriptors = 0;
    this.segmented = false;
    this.#segments = 0;
  }

  /** Adds a descriptor's piece. Returns what is wrong with it, or null. */
  add(gpa: number, length: number, lower: number, upper: number): string | null {
    if (this.descriptors === 0) {
      this.#firstLower = lower;
      this.#firstUpper = upper;
    }
    this.lower = lower;
    this.#upper = upper;
    if (++this.descriptors > SEGMENTS_MAX) return `a packet of over ${SEGMENTS_MAX} descriptors`;
    if (length === 0) return null;
    const offset = this.#memory.offset(gpa, length);
    if (offset < 0) return `${length} bytes at 0x${gpa.toString(16)} are not in RAM`;
    this.length += length;
    if (this.length > LENGTH_MAX) return `a packet of over ${LENGTH_MAX} bytes`;
    this.#offsets[this.#segments] = offset;
    this.#lengths[this.#segments++] = length;
    return null;
  }

  /**
   * Makes the iovec. Returns false when the packet cannot be sent.
   * @param context the transmit context (SDM 3.3.6)
   * @param vlan whether CTRL allows for tags
   */
  prepare(context: Int32Array, tctl: number, vlan: boolean): boolean {
    if (this.length < ETHERNET_HEADER) return false;
    this.#vnet.bytes.fill(0);
    const tag = vlan && (this.lower & e1000.TXD_CMD_VLE) !== 0 ? VLAN_TAG : 0;
    let copied = tag === 0 ? 0 : ETHERNET_ADDRESSES;
    if ((this.#firstLower & e1000.TXD_CMD_DEXT) !== 0) {
      copied = this.#offload(context, copied, tag);
    } else if ((this.lower & e1000.TXD_CMD_IC) !== 0) {
      const start = (this.#upper >>> 8) & 0xff;
      if (!this.#checksum(start, (this.lower >>> 16) & 0xff, tag)) return false;
    }
    if (copied < 0) return false;
    if (tag !== 0) {
      if (copied === ETHERNET_ADDRESSES) this.#copyHead(copied);
      this.#insertTag(copied);
    }
    this.#address();
    this.#lay(copied, tag, tctl);
    return true;
  }

  /**
   * The offloads requested by the context (SDM 3.3.6, 3.5).
   * @param copied bytes of the header that are to be copied anyway
   * @returns bytes of it that were copied, or -1
   */
  #offload(context: Int32Array, copied: number, tag: number): number {
    const options = this.#firstUpper;
    const segment = (this.#firstLower & e1000.TXD_CMD_TSE) !== 0;
    const ip = context[0] as number;
    const tcp = context[1] as number;
    let length = copied;
    if (segment || (options & e1000.TXD_POPTS_IXSM) !== 0) {
      const end = segment ? ((context[3] as number) >>> 8) & 0xff : (ip >>> 16) + 1;
      if (end > HEADER_MAX || end > this.length || end < ETHERNET_HEADER) return -1;
      length = end;
      this.#copyHead(length);
    }
    if (segment && !this.#segmentation(context, length, tag)) return -1;
    if ((options & e1000.TXD_POPTS_IXSM) !== 0 && !this.#ipChecksum(ip, length)) return -1;
    if (segment || (options & e1000.TXD_POPTS_TXSM) !== 0) {
      if (!this.#checksum(tcp & 0xff, (tcp >>> 8) & 0xff, tag)) return -1;
    }
    return length;
  }

  /** TCP segmentation: the kernel cuts the packet, given headers that are those of the whole. */
  #segmentation(context: Int32Array, length: number, tag: number): boolean {
    const head = this.#head.view;
    const ipStart = (context[0] as number) & 0xff;
    const tcpStart = (context[1] as number) & 0xff;
    const checksum = ((context[1] as number) >>> 8) & 0xff;
    const command = context[2] as number;
    // Of UDP the hardware makes fragments, which a tap has no word for.
    if ((command & e1000.TXC_TCP) === 0) return false;
    if (tcpStart + TCP_FLAGS >= length || checksum + 2 > length) return false;
    const isIpv4 = (command & e1000.TXC_IP) !== 0;
    if (ipStart + (isIpv4 ? 20 : IPV6_HEADER) > tcpStart) return false;
    if (isIpv4) head.setUint16(ipStart + 2, this.length - ipStart);
    else head.setUint16(ipStart + 4, this.length - ipStart - IPV6_HEADER);
    // The driver's pseudo header leaves out the length, which differs from segment to segment.
    const sum = head.getUint16(checksum) + this.length - tcpStart;
    head.setUint16(checksum, fold(sum));
    const ecn = (head.getUint8(tcpStart + TCP_FLAGS) & TCP_CWR) === 0 ? 0 : VIRTIO_NET_HDR_GSO_ECN;
    const type = isIpv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
    const size = (context[3] as number) >>> 16;
    if (size === 0) return false;
    const vnet = this.#vnet.view;
    // What fits one segment needs no cutting, and the kernel refuses to.
    const cut = this.length - length > size;
    this.segmented = cut;
    vnet.setUint8(header.gso_type.offset, cut ? type | ecn : VIRTIO_NET_HDR_GSO_NONE);
    vnet.setUint16(header.gso_size.offset, cut ? size : 0, true);
    vnet.setUint16(header.hdr_len.offset, length + tag, true);
    return true;
  }

  /** The IPv4 header checksum, done here: a tap has no word for it. */
  #ipChecksum(ip: number, length: number): boolean {
    const head = this.#head.view;
    const start = ip & 0xff;
    const place = (ip >>> 8) & 0xff;
    const end = (ip >>> 16) + 1;
    if (end > length || place + 2 > length || start >= end) return false;
    head.setUint16(place, 0);
    let sum = 0;
    for (let at = start; at + 1 < end; at += 2) sum += head.getUint16(at);
    if ((end - start) % 2 === 1) sum += head.getUint8(end - 1) << 8;
    head.setUint16(place, ~fold(sum) & 0xffff);
    return true;
  }

  /** A checksum from `start` to the end of the packet, which the tap adds. */
  #checksum(start: number, place: number, tag: number): boolean {
    if (place < start || place + 2 > this.length) return false;
    const vnet = this.#vnet.view;
    vnet.setUint8(header.flags.offset, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    vnet.setUint16(header.csum_start.offset, start + tag, true);
    vnet.setUint16(header.csum_offset.offset, place - start, true);
    return true;
  }

  #copyHead(length: number): void {
    const memory = this.#memory;
    const { bytes } = this.#head;
    let done = 0;
    for (let i = 0; done < length; i++) {
      const offset = this.#offsets[i] as number;
      const end = Math.min(length, done + (this.#lengths[i] as number));
      for (let at = offset; done < end; at++) bytes[done++] = memory.readU8(at);
    }
  }

  /** Puts the tag of the last descriptor's special field behind the addresses. */
  #insertTag(copied: number): void {
    this.#head.bytes.copyWithin(ETHERNET_ADDRESSES + VLAN_TAG, ETHERNET_ADDRESSES, copied);
    this.#head.view.setUint16(ETHERNET_ADDRESSES, ETH_P_8021Q);
    this.#head.view.setUint16(ETHERNET_ADDRESSES + 2, this.#upper >>> 16);
  }

  /** Looks at the destination, for the statistics. */
  #address(): void {
    const offset = this.#offsets[0] as number;
    const first = this.#memory.readU8(offset);
    this.multicast = (first & 1) === 1;
    this.broadcast =
      first === 0xff &&
      (this.#lengths[0] as number) >= 6 &&
      this.#memory.readU32(offset) === 0xffff_ffff &&
      this.#memory.readU16(offset + 4) === 0xffff;
  }

  /** @param copied bytes of the packet that were copied @param tag bytes that were added there */
  #lay(copied: number, tag: number, tctl: number): void {
    this.iovecs = 0;
    this.#push(this.#vnet.address, header.size);
    if (copied > 0) this.#push(this.#head.address, copied + tag);
    let skip = copied;
    for (let i = 0; i < this.#segments; i++) {
      const length = this.#lengths[i] as number;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const address = this.#memory.address + (this.#offsets[i] as number) + skip;
      this.#push(address, length - skip);
      skip = 0;
    }
    const total = this.length + tag;
    if ((tctl & e1000.TCTL_PSP) !== 0 && total < SHORTEST) {
      this.#push(this.#zeros.address, SHORTEST - total);
    }
  }

  #push(address: number, length: number): void {
    const { view } = this.#iovec;
    const at = this.iovecs++ * IOVEC_SIZE;
    view.setUint32(at, address >>> 0, true);
    view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
    view.setUint32(at + 8, length, true);
  }
}

/** A sum of 16-bit words in ones' complement. */
function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16);
  return folded;
}
