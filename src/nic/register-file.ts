/**
 * The memory behind an 82540EM's registers, in the state buffer. vCPU threads read and write it
 * with the register lock held; the thread that moves packets sees the same words without that lock,
 * and does to them what Atomics can do.
 */
import { EEPROM_WORDS, ICR, IMS, PHY_REGISTERS, REGISTERS_END } from '../abi/e1000.ts';
import { RegisterLock } from '../state/shared-state.ts';

/** Words behind the registers, by index. */
const GATE = REGISTERS_END / 4;
const BROKEN = GATE + 1;
const IO_ADDRESS = GATE + 2;
const CONTEXT = GATE + 4;
const CONTEXT_WORDS = 4;
const MICROWIRE = CONTEXT + CONTEXT_WORDS;
const MICROWIRE_WORDS = 4;
const PHY = MICROWIRE + MICROWIRE_WORDS;
const EEPROM = PHY + PHY_REGISTERS;
const WORDS = EEPROM + EEPROM_WORDS;

/** A view of one device's words. */
export class RegisterFile {
  /** 32-bit words that a register file takes. */
  static readonly words: number = WORDS;

  /** What another thread makes its own view of. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /**
   * Held by the thread that moves packets while it uses the rings. Disabling or resetting the device
   * takes it once afterwards, which proves that the rings are released. Taken with the register
   * lock held, never the other way around.
   */
  readonly gate: RegisterLock;
  /** The transmit context (SDM 3.3.6), which outlives the packets that it is for. */
  readonly context: Int32Array;
  readonly microwire: Int32Array;
  readonly phy: Int32Array;
  readonly eeprom: Int32Array;

  constructor(words: Int32Array<SharedArrayBuffer>) {
    this.words = words;
    this.gate = new RegisterLock(words.subarray(GATE, GATE + 1));
    this.context = words.subarray(CONTEXT, CONTEXT + CONTEXT_WORDS);
    this.microwire = words.subarray(MICROWIRE, MICROWIRE + MICROWIRE_WORDS);
    this.phy = words.subarray(PHY, PHY + PHY_REGISTERS);
    this.eeprom = words.subarray(EEPROM, EEPROM + EEPROM_WORDS);
  }

  /** A register by its byte offset, below REGISTERS_END. */
  get(offset: number): number {
    return Atomics.load(this.words, offset >>> 2) >>> 0;
  }

  set(offset: number, value: number): void {
    Atomics.store(this.words, offset >>> 2, value);
  }

  /** Sets a register to 0. Returns what it was. */
  take(offset: number): number {
    return Atomics.exchange(this.words, offset >>> 2, 0) >>> 0;
  }

  /** Clears all registers and the transmit context; EEPROM and PHY stay. */
  clear(): void {
    this.words.fill(0, 0, REGISTERS_END / 4);
    this.context.fill(0);
  }

  /** Waits until the rings are released. */
  passGate(): void {
    this.gate.acquire();
    this.gate.release();
  }

  /**
   * Adds interrupt causes.
   * @returns whether the device interrupts now: both sides store first and load then, so that one
   *   of two that change cause and mask at a time sees what the other did
   */
  raise(causes: number): boolean {
    Atomics.or(this.words, ICR >>> 2, causes);
    return this.interrupting;
  }

  /** Whether a cause is pending that the mask lets through. */
  get interrupting(): boolean {
    return (this.get(ICR) & this.get(IMS)) !== 0;
  }

  /** Adds to a statistics register. */
  count(offset: number, by = 1): void {
    Atomics.add(this.words, offset >>> 2, by);
  }

  /** Adds to one of two words, the lower at `offset`. */
  countWide(offset: number, by: number): void {
    const before = Atomics.add(this.words, offset >>> 2, by) >>> 0;
    if (before + by >= 2 ** 32) this.count(offset + 4);
  }

  /** The driver broke a rule: nothing is moved before it resets the device. */
  get broken(): boolean {
    return Atomics.load(this.words, BROKEN) !== 0;
  }
  set broken(value: boolean) {
    Atomics.store(this.words, BROKEN, value ? 1 : 0);
  }

  /** The register that the I/O window shows (SDM 13.2). */
  get ioAddress(): number {
    return (this.words[IO_ADDRESS] ?? 0) >>> 0;
  }
  set ioAddress(value: number) {
    this.words[IO_ADDRESS] = value;
  }
}
