/**
 * The 64-word EEPROM of an 82540EM (SDM 5): what is in it, and the serial Microwire protocol by
 * which a driver reads it bit by bit. It cannot be written.
 */
import * as e1000 from '../abi/e1000.ts';

/** Words of the Microwire state. */
const CLOCKED = 0;
const COMMAND = 1;
const OUTPUT = 2;

/** Bits of a command: start bit, two of the opcode, six of the address. */
const COMMAND_BITS = 9;
const OPCODE_READ = 2;
const WORD_BITS = 16;

/** The words, with the checksum that drivers look at. @param mac six bytes */
export function eepromImage(mac: Uint8Array): number[] {
  const words = new Array<number>(e1000.EEPROM_WORDS).fill(0);
  for (let i = 0; i < 3; i++) words[i] = (mac[2 * i] ?? 0) | ((mac[2 * i + 1] ?? 0) << 8);
  // All bits set: the LED modes that are the hardware's own.
  words[e1000.EEPROM_ID_LED_SETTINGS] = 0xffff;
  // No part number.
  words[e1000.EEPROM_PBA_BYTE_1] = 0xffff;
  words[e1000.EEPROM_PBA_BYTE_1 + 1] = 0xffff;
  // Signature, and the subsystem IDs below are to be loaded.
  words[e1000.EEPROM_INIT_CONTROL1] = 0x4406;
  words[e1000.EEPROM_SUBSYSTEM_ID] = e1000.E1000_SUBSYSTEM_ID;
  words[e1000.EEPROM_SUBSYSTEM_VENDOR_ID] = e1000.PCI_VENDOR_ID_INTEL;
  words[e1000.EEPROM_DEVICE_ID] = e1000.E1000_DEV_ID_82540EM;
  words[e1000.EEPROM_VENDOR_ID] = e1000.PCI_VENDOR_ID_INTEL;
  // No pause frames, which a tap knows nothing of.
  words[e1000.EEPROM_INIT_CONTROL2] = 0;
  const sum = words.reduce((all, word) => all + word, 0);
  words[e1000.EEPROM_CHECKSUM] = (e1000.EEPROM_SUM - sum) & 0xffff;
  return words;
}

/** The EEPROM's serial interface: its four wires are bits of EECD. */
export class Microwire {
  readonly #state: Int32Array;
  readonly #words: Int32Array;

  /**
   * @param state shared words of this object
   * @param words the EEPROM's content
   */
  constructor(state: Int32Array, words: Int32Array) {
    this.#state = state;
    this.#words = words;
  }

  /** Whether the data output is high. */
  get output(): boolean {
    return this.#state[OUTPUT] === 1;
  }

  /** The driver moved the wires: @param before EECD as it was @param now as it is */
  wires(before: number, now: number): void {
    if ((now & e1000.EECD_CS) === 0) {
      this.#state.fill(0);
      return;
    }
    const rising = (now & ~before & e1000.EECD_SK) !== 0;
    if (rising) this.#clock((now & e1000.EECD_DI) === 0 ? 0 : 1);
  }

  #clock(input: number): void {
    const state = this.#state;
    const clocked = state[CLOCKED] ?? 0;
    if (clocked < COMMAND_BITS) {
      // Zeros before the start bit do not count.
      if (clocked === 0 && input === 0) return;
      state[CLOCKED] = clocked + 1;
      state[COMMAND] = ((state[COMMAND] ?? 0) << 1) | input;
      return;
    }
    const command = state[COMMAND] ?? 0;
    if (((command >> 6) & 3) !== OPCODE_READ) return;
    // A read continues with the following words for as long as it is clocked.
    const bit = clocked - COMMAND_BITS;
    const address = (command + Math.floor(bit / WORD_BITS)) % e1000.EEPROM_WORDS;
    const word = this.#words[address] ?? 0;
    state[OUTPUT] = (word >> (WORD_BITS - 1 - (bit % WORD_BITS))) & 1;
    state[CLOCKED] = COMMAND_BITS + ((bit + 1) % (WORD_BITS * e1000.EEPROM_WORDS));
  }
}
