/**
 * The registers of an 82540EM as a driver meets them (SDM 13). All methods run with the register
 * lock held, in any thread; whatever moves packets is left to the thread that does that.
 *
 * HOT: `read` and `write`, which each access of a driver exits to.
 */
import * as e1000 from '../abi/e1000.ts';
import type { RegisterRegion } from '../bus/address-space.ts';
import { Microwire } from './eeprom.ts';
import { Phy } from './phy.ts';
import type { RegisterFile } from './register-file.ts';

/** What the registers make happen. */
export interface RegisterEvents {
  /** A ring, or what is enabled, changed: look at it. */
  kick(): void;
  /** Causes or mask changed: drive the interrupt line. */
  interrupt(): void;
  /** The driver reset a device that had been stopped as broken. */
  revived(): void;
}

/** Registers that keep what is written, with the bits that they have. */
const STORED: readonly (readonly [offset: number, mask: number])[] = [
  [e1000.CTRL_EXT, 0xffff_ffff],
  [e1000.FCAL, 0xffff_ffff],
  [e1000.FCAH, 0xffff],
  [e1000.FCT, 0xffff],
  [e1000.VET, 0xffff],
  [e1000.ITR, 0xffff],
  [e1000.FCTTV, 0xffff],
  [e1000.TXCW, 0xffff_ffff],
  [e1000.TIPG, 0x3fff_ffff],
  [e1000.AIT, 0xffff],
  [e1000.LEDCTL, 0xffff_ffff],
  [e1000.PBA, 0xffff_ffff],
  [e1000.FCRTL, 0x8000_fff8],
  [e1000.FCRTH, 0xfff8],
  [e1000.RDBAL, 0xffff_fff0],
  [e1000.RDBAH, 0xffff_ffff],
  [e1000.RDLEN, 0xf_ff80],
  [e1000.RDH, 0xffff],
  [e1000.RDTR, 0xffff],
  [e1000.RXDCTL, 0xffff_ffff],
  [e1000.RADV, 0xffff],
  [e1000.RSRPD, 0xfff],
  [e1000.TDBAL, 0xffff_fff0],
  [e1000.TDBAH, 0xffff_ffff],
  [e1000.TDLEN, 0xf_ff80],
  [e1000.TDH, 0xffff],
  [e1000.TIDV, 0xffff],
  [e1000.TXDCTL, 0xffff_ffff],
  [e1000.TADV, 0xffff],
  [e1000.TSPMT, 0xffff_ffff],
  [e1000.RXCSUM, 0x7ff],
  [e1000.WUC, 0xf],
  [e1000.WUFC, 0xffff_ffff],
  [e1000.MANC, 0xffff_ffff],
];

const TABLES: readonly (readonly [offset: number, words: number])[] = [
  [e1000.MTA, e1000.MTA_WORDS],
  [e1000.RA, 2 * e1000.RA_ENTRIES],
  [e1000.VFTA, e1000.VFTA_WORDS],
];

/** Values after a reset, where they are not 0. */
const DEFAULTS: readonly (readonly [offset: number, value: number])[] = [
  [e1000.CTRL, e1000.CTRL_FD],
  [e1000.VET, 0x8100],
  [e1000.LEDCTL, 0x0706_8302],
  // 48 KiB for what is received, 16 KiB for what is sent.
  [e1000.PBA, 0x0010_0030],
];

/** By word: the bits that a driver may write. */
const WRITE_MASK = writeMask();

/** One device's registers. */
export class E1000Registers implements RegisterRegion {
  readonly file: RegisterFile;
  /** The I/O window: an address, then the data there (SDM 13.2). */
  readonly ports: RegisterRegion = {
    read: (offset, size) => {
      if (size !== 4) return 0;
      if (offset === e1000.IOADDR) return this.file.ioAddress;
      return offset === e1000.IODATA ? this.read(this.file.ioAddress, 4) : 0;
    },
    write: (offset, size, value) => {
      if (size !== 4) return;
      if (offset === e1000.IOADDR) this.file.ioAddress = value & (e1000.E1000_MEMORY_SIZE - 4);
      else if (offset === e1000.IODATA) this.write(this.file.ioAddress, 4, value);
    },
  };
  readonly #events: RegisterEvents;
  readonly #phy: Phy;
  readonly #eeprom: Microwire;

  constructor(file: RegisterFile, events: RegisterEvents) {
    this.file = file;
    this.#events = events;
    this.#phy = new Phy(file.phy);
    this.#eeprom = new Microwire(file.microwire, file.eeprom);
  }

  /** Power-on state. No packets are being moved. @param eeprom its content */
  powerOn(eeprom: readonly number[]): void {
    this.file.words.fill(0);
    this.file.eeprom.set(eeprom);
    this.#phy.reset();
    this.#setDefaults();
  }

  read(offset: number, size: number): number {
    // Registers are double words (SDM 13.2); a part of one is what a bus would return of it.
    if (size !== 4) {
      const shift = (offset % 4) * 8;
      return (this.read(offset & ~3, 4) >>> shift) & (size === 1 ? 0xff : 0xffff);
    }
    if (offset >= e1000.REGISTERS_END) return 0;
    const { file } = this;
    switch (offset) {
      case e1000.ICR: {
        const causes = file.take(e1000.ICR);
        this.#events.interrupt();
        return causes;
      }
      case e1000.STATUS:
        return e1000.STATUS_FD | e1000.STATUS_LU | e1000.STATUS_SPEED_1000;
      case e1000.EECD:
        return this.#readEecd();
      case e1000.GORCH:
      case e1000.GOTCH:
      case e1000.TORH:
      case e1000.TOTH:
        file.set(offset - 4, 0);
        return file.take(offset);
      case e1000.GORCL:
      case e1000.GOTCL:
      case e1000.TORL:
      case e1000.TOTL:
        return file.get(offset);
      default:
        if (offset >= e1000.STATISTICS && offset < e1000.STATISTICS_END) return file.take(offset);
        return file.get(offset);
    }
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 4 || offset % 4 !== 0 || offset >= e1000.REGISTERS_END) return;
    const { file } = this;
    switch (offset) {
      case e1000.TDT:
      case e1000.RDT:
        file.set(offset, value & 0xffff);
        this.#events.kick();
        return;
      case e1000.IMS:
        file.set(e1000.IMS, file.get(e1000.IMS) | (value & e1000.ICR_ALL));
        this.#events.interrupt();
        return;
      case e1000.IMC:
        file.set(e1000.IMS, file.get(e1000.IMS) & ~value);
        this.#events.interrupt();
        return;
      case e1000.ICS:
        this.#raise(value & e1000.ICR_ALL);
        return;
      case e1000.ICR:
        // A bit written as 1 is acknowledged (SDM 13.4).
        Atomics.and(file.words, e1000.ICR >>> 2, ~value);
        this.#events.interrupt();
        return;
      case e1000.CTRL:
        this.#control(value >>> 0);
        return;
      case e1000.RCTL:
        this.#enable(e1000.RCTL, value, e1000.RCTL_EN);
        return;
      case e1000.TCTL:
        this.#enable(e1000.TCTL, value, e1000.TCTL_EN);
        return;
      case e1000.EECD:
        this.#eeprom.wires(file.get(e1000.EECD), value);
        file.set(e1000.EECD, value & EECD_WRITABLE);
        return;
      case e1000.EERD:
        this.#readEeprom(value >>> 0);
        return;
      case e1000.MDIC:
        this.#mdi(value >>> 0);
        return;
      default: {
        const mask = WRITE_MASK[offset >>> 2] ?? 0;
        if (mask !== 0) file.set(offset, value & mask);
      }
    }
  }

  #raise(causes: number): void {
    this.file.raise(causes);
    this.#events.interrupt();
  }

  /** SDM 13.4; RST and PHY_RST clear themselves. */
  #control(value: number): void {
    if ((value & e1000.CTRL_PHY_RST) !== 0) this.#phy.reset();
    if ((value & e1000.CTRL_RST) !== 0) this.#reset();
    else this.file.set(e1000.CTRL, value & ~e1000.CTRL_PHY_RST);
  }

  /** Everything but PCI configuration, EEPROM and PHY takes its initial state. */
  #reset(): void {
    const { file } = this;
    file.set(e1000.RCTL, 0);
    file.set(e1000.TCTL, 0);
    file.passGate();
    file.clear();
    this.#setDefaults();
    this.#events.interrupt();
    this.#events.kick();
    if (!file.broken) return;
    file.broken = false;
    this.#events.revived();
  }

  /** When it returns, what was switched off touches its ring no more. */
  #enable(offset: number, value: number, bit: number): void {
    const { file } = this;
    const before = file.get(offset);
    file.set(offset, value);
    if ((before & ~value & bit) !== 0) file.passGate();
    this.#events.kick();
  }

  #setDefaults(): void {
    const { file } = this;
    for (const [offset, value] of DEFAULTS) file.set(offset, value);
    const word = (index: number): number => file.eeprom[index] ?? 0;
    file.set(e1000.RA, (word(1) << 16) | word(0));
    file.set(e1000.RA + 4, e1000.RAH_AV | word(2));
  }

  /** SDM 13.4: a request for the EEPROM is always granted. */
  #readEecd(): number {
    const stored = this.file.get(e1000.EECD);
    const granted = (stored & e1000.EECD_REQ) === 0 ? 0 : e1000.EECD_GNT;
    const output = this.#eeprom.output ? e1000.EECD_DO : 0;
    return stored | granted | output | e1000.EECD_PRES;
  }

  /** SDM 13.4: a word at a time. */
  #readEeprom(value: number): void {
    if ((value & e1000.EERD_START) === 0) return;
    const address = (value >>> 8) & 0xff;
    const word = this.file.eeprom[address] ?? 0;
    this.file.set(e1000.EERD, (word << 16) | (address << 8) | e1000.EERD_DONE);
  }

  /** SDM 13.4: an access to the PHY is complete at once. */
  #mdi(value: number): void {
    const register = (value >>> 16) & 0x1f;
    const operation = (value >>> 26) & 3;
    let result = (value & 0x2fff_ffff) | e1000.MDIC_READY;
    let causes = (value & e1000.MDIC_INT_EN) === 0 ? 0 : e1000.ICR_MDAC;
    if (((value >>> 21) & 0x1f) !== e1000.PHY_ADDRESS) result |= e1000.MDIC_ERROR;
    else if (operation === e1000.MDIC_OP_READ) {
      result = (result & ~0xffff) | this.#phy.read(register);
    } else if (operation === e1000.MDIC_OP_WRITE) {
      if (this.#phy.write(register, value & 0xffff)) causes |= e1000.ICR_LSC;
    } else result |= e1000.MDIC_ERROR;
    this.file.set(e1000.MDIC, result);
    if (causes !== 0) this.#raise(causes);
  }
}

const EECD_WRITABLE =
  e1000.EECD_SK | e1000.EECD_CS | e1000.EECD_DI | e1000.EECD_FWE | e1000.EECD_REQ;

function writeMask(): Int32Array {
  const masks = new Int32Array(e1000.REGISTERS_END / 4);
  for (const [offset, mask] of STORED) masks[offset / 4] = mask;
  for (const [offset, words] of TABLES) masks.fill(-1, offset / 4, offset / 4 + words);
  return masks;
}
