/**
 * Which packets an 82540EM lets in (SDM 3.2.1): exact addresses, a hash of group addresses, VLANs.
 *
 * HOT.
 */
import {
  MTA,
  RA,
  RA_ENTRIES,
  RAH_AV,
  RCTL_BAM,
  RCTL_MO_SHIFT,
  RCTL_MPE,
  RCTL_UPE,
  RCTL_VFE,
  VET,
  VFTA,
} from '../abi/e1000.ts';
import type { RegisterFile } from './register-file.ts';

const ETHERTYPE = 12;
/** By RCTL.MO: how far the last two bytes of an address are shifted to hash it. */
const HASH_SHIFTS: readonly number[] = [4, 3, 2, 0];

/** The filters as the registers have them. */
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
    if (tagged && (rctl & RCTL_VFE) !== 0) {
      const vlan = packet.getUint16(at + ETHERTYPE + 2) & 0xfff;
      if (((this.#file.get(VFTA + (vlan >>> 5) * 4) >>> (vlan & 31)) & 1) === 0) return false;
    }
    // As RAL and RAH hold an address: the first byte lowest.
    const low = packet.getUint32(at, true);
    const high = packet.getUint16(at + 4, true);
    if ((low & 1) === 0) return (rctl & RCTL_UPE) !== 0 || this.#isExact(low, high);
    if (low === 0xffff_ffff && high === 0xffff) {
      if ((rctl & RCTL_BAM) !== 0) return true;
    }
    return (rctl & RCTL_MPE) !== 0 || this.#isExact(low, high) || this.#isHashed(high, rctl);
  }

  /** Whether a packet has a tag of the kind that VET names. */
  isTagged(packet: DataView, at: number): boolean {
    return packet.getUint16(at + ETHERTYPE) === this.#file.get(VET);
  }

  #isExact(low: number, high: number): boolean {
    const file = this.#file;
    for (let i = 0; i < RA_ENTRIES; i++) {
      const upper = file.get(RA + 8 * i + 4);
      // AS, bits 16 and 17: 0 for destination addresses, all that is here.
      if (upper >>> 16 !== RAH_AV >>> 16 || (upper & 0xffff) !== high) continue;
      if (file.get(RA + 8 * i) === low) return true;
    }
    return false;
  }

  /** SDM 13.5.1. */
  #isHashed(high: number, rctl: number): boolean {
    const shift = HASH_SHIFTS[(rctl >>> RCTL_MO_SHIFT) & 3] as number;
    const hash = (high >>> shift) & 0xfff;
    return ((this.#file.get(MTA + (hash >>> 5) * 4) >>> (hash & 31)) & 1) === 1;
  }
}
