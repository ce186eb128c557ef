/**
 * The PHY inside an 82540EM (SDM 13.4): a link at 1000 Mbit/s, full duplex, that is always up.
 * What a driver writes is kept, but changes nothing.
 */
import * as e1000 from '../abi/e1000.ts';

/** Values after a reset, by register; the others start at 0. */
const DEFAULTS: ReadonlyMap<number, number> = new Map([
  // Auto-negotiation, full duplex, 1000 Mbit/s.
  [e1000.PHY_CTRL, 0x1140],
  // 10 and 100 Mbit/s, negotiation complete, link.
  [e1000.PHY_STATUS, 0x796d],
  // Marvell 88E1011, as the 82540 has it.
  [e1000.PHY_ID1, 0x0141],
  [e1000.PHY_ID2, 0x0c20],
  [e1000.PHY_AUTONEG_ADV, 0x01e1],
  // The partner can do the same, without pause frames.
  [e1000.PHY_LP_ABILITY, 0x41e1],
  [e1000.PHY_AUTONEG_EXP, 0x0005],
  [e1000.PHY_NEXT_PAGE_TX, 0x2001],
  [e1000.PHY_1000T_CTRL, 0x0300],
  // Both receivers work, the partner can do 1000 Mbit/s.
  [e1000.PHY_1000T_STATUS, 0x3c00],
  [e1000.PHY_EXT_STATUS, 0x3000],
  [e1000.M88E1000_PHY_SPEC_CTRL, 0x0068],
  // 1000 Mbit/s, full duplex, resolved, link, a short cable.
  [e1000.M88E1000_PHY_SPEC_STATUS, 0xac00],
  [e1000.M88E1000_EXT_PHY_SPEC_CTRL, 0x0d60],
]);

const READ_ONLY: ReadonlySet<number> = new Set([
  e1000.PHY_STATUS,
  e1000.PHY_ID1,
  e1000.PHY_ID2,
  e1000.PHY_LP_ABILITY,
  e1000.PHY_AUTONEG_EXP,
  e1000.PHY_LP_NEXT_PAGE,
  e1000.PHY_1000T_STATUS,
  e1000.PHY_EXT_STATUS,
  e1000.M88E1000_PHY_SPEC_STATUS,
  e1000.M88E1000_INT_STATUS,
  e1000.M88E1000_RX_ERR_CNTR,
]);

/** The PHY's registers, by number, as a driver reaches them through MDIC. */
export class Phy {
  readonly #words: Int32Array;

  /** @param words one for each register, shared */
  constructor(words: Int32Array) {
    this.#words = words;
  }

  reset(): void {
    for (let register = 0; register < this.#words.length; register++) {
      this.#words[register] = DEFAULTS.get(register) ?? 0;
    }
  }

  /** @param register 0 to 31 */
  read(register: number): number {
    return this.#words[register] ?? 0;
  }

  /** Returns true when this restarted link negotiation. */
  write(register: number, value: number): boolean {
    if (READ_ONLY.has(register)) return false;
    if (register !== e1000.PHY_CTRL) {
      this.#words[register] = value;
      return false;
    }
    if ((value & e1000.MII_CR_RESET) !== 0) this.reset();
    else this.#words[register] = value & ~e1000.MII_CR_RESTART_AUTO_NEG;
    return (value & (e1000.MII_CR_RESET | e1000.MII_CR_RESTART_AUTO_NEG)) !== 0;
  }
}
