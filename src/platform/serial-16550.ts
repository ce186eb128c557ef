/**
 * A 16550A UART: the guest's early console (National Semiconductor PC16550D, 1995). Registers and
 * both FIFOs are in the state buffer; the transmitter reports "full" while its output is not taken.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';

/** Register offsets; some differ by direction or by DLAB. */
const DATA = 0;
const IER = 1;
const IIR_FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

const IER_RDI = 0x01;
const IER_THRI = 0x02;
const IIR_NO_INT = 0x01;
const IIR_THRI = 0x02;
const IIR_RDI = 0x04;
const IIR_FIFO_ENABLED = 0xc0;
const FCR_FIFO_ENABLE = 0x01;
const LCR_DLAB = 0x80;
const LSR_DR = 0x01;
const LSR_THRE_TEMT = 0x60;
const MCR_LOOP = 0x10;
/** CTS, DSR, DCD: a terminal is connected. */
const MSR_CONNECTED = 0xb0;

const W_IER = 0;
const W_LCR = 1;
const W_MCR = 2;
const W_SCR = 3;
const W_FCR = 4;
const W_DIVISOR = 5;
/** The transmitter has become empty, and the guest has not seen it in IIR. */
const W_THRE_PENDING = 6;
const W_OUT_HEAD = 7;
const W_OUT_TAIL = 8;
const W_IN_HEAD = 9;
const W_IN_TAIL = 10;
/** The owner was notified of output. */
const W_TOLD = 11;
/** Level of the interrupt line. */
const W_LINE = 12;
const WORDS = 16;

const OUT_SIZE = 0x10000;
/** What a driver may write once it has seen THRE: the chip's FIFO. */
const FIFO_SIZE = 16;
const IN_SIZE = 0x1000;

/** The serial port. Register accesses run with the register lock held; the other methods take it. */
export class Serial16550 implements RegisterRegion {
  readonly #state: SharedState;
  readonly #interrupts: InterruptController;
  readonly #gsi: number;
  readonly #hasOutput: () => void;
  readonly #words: Int32Array;
  readonly #output: Uint8Array;
  readonly #input: Uint8Array;

  /** @param hasOutput called when there is output to take, once until it is taken */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    gsi: number,
    hasOutput: () => void,
  ) {
    this.#state = state;
    this.#interrupts = interrupts;
    this.#gsi = gsi;
    this.#hasOutput = hasOutput;
    this.#words = state.words(WORDS);
    this.#output = state.bytes(OUT_SIZE);
    this.#input = state.bytes(IN_SIZE);
  }

  /** Power-on state; output that was not taken yet stays. */
  reset(): void {
    for (const word of [W_IER, W_LCR, W_SCR, W_FCR, W_THRE_PENDING]) this.#words[word] = 0;
    this.#words[W_MCR] = 0;
    this.#words[W_DIVISOR] = 1;
    this.#words[W_IN_TAIL] = this.#get(W_IN_HEAD);
    this.#updateLine();
  }

  /** What the guest sent since the last call. */
  takeOutput(): Buffer {
    return this.#state.lock.with(() => {
      const tail = this.#get(W_OUT_TAIL);
      const count = (this.#get(W_OUT_HEAD) - tail) >>> 0;
      const taken = Buffer.alloc(count);
      for (let i = 0; i < count; i++) taken[i] = this.#output[(tail + i) & (OUT_SIZE - 1)] ?? 0;
      const wasReady = this.#transmitterReady();
      this.#words[W_OUT_TAIL] = tail + count;
      this.#words[W_TOLD] = 0;
      if (!wasReady) this.#words[W_THRE_PENDING] = 1;
      this.#updateLine();
      return taken;
    });
  }

  /** Sends bytes to the guest. Returns how many there was room for. */
  pushInput(bytes: Uint8Array): number {
    return this.#state.lock.with(() => {
      const head = this.#get(W_IN_HEAD);
      const room = IN_SIZE - ((head - this.#get(W_IN_TAIL)) >>> 0);
      const count = Math.min(room, bytes.length);
      for (let i = 0; i < count; i++) this.#input[(head + i) & (IN_SIZE - 1)] = bytes[i] ?? 0;
      this.#words[W_IN_HEAD] = head + count;
      this.#updateLine();
      return count;
    });
  }

  read(offset: number, size: number): number {
    if (size !== 1) return 2 ** (8 * size) - 1;
    const divisorLatch = (this.#get(W_LCR) & LCR_DLAB) !== 0;
    switch (offset) {
      case DATA:
        return divisorLatch ? this.#get(W_DIVISOR) & 0xff : this.#receive();
      case IER:
        return divisorLatch ? this.#get(W_DIVISOR) >> 8 : this.#get(W_IER);
      case IIR_FCR:
        return this.#identify();
      case LCR:
        return this.#get(W_LCR);
      case MCR:
        return this.#get(W_MCR);
      case LSR:
        return (
          (this.#inputCount() > 0 ? LSR_DR : 0) | (this.#transmitterReady() ? LSR_THRE_TEMT : 0)
        );
      case MSR:
        return this.#modemStatus();
      case SCR:
        return this.#get(W_SCR);
      default:
        return 0xff;
    }
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 1) return;
    const divisorLatch = (this.#get(W_LCR) & LCR_DLAB) !== 0;
    const divisor = this.#get(W_DIVISOR);
    switch (offset) {
      case DATA:
        if (divisorLatch) this.#words[W_DIVISOR] = (divisor & 0xff00) | value;
        else this.#transmit(value);
        return;
      case IER:
        if (divisorLatch) this.#words[W_DIVISOR] = (divisor & 0xff) | (value << 8);
        else this.#enable(value & 0x0f);
        return;
      case IIR_FCR:
        this.#words[W_FCR] = value & FCR_FIFO_ENABLE;
        return;
      case LCR:
        this.#words[W_LCR] = value;
        return;
      case MCR:
        this.#words[W_MCR] = value & 0x1f;
        return;
      case SCR:
        this.#words[W_SCR] = value;
    }
  }

  #transmit(value: number): void {
    if ((this.#get(W_MCR) & MCR_LOOP) !== 0) {
      const head = this.#get(W_IN_HEAD);
      if (this.#inputCount() < IN_SIZE) {
        this.#input[head & (IN_SIZE - 1)] = value;
        this.#words[W_IN_HEAD] = head + 1;
      }
    } else if (this.#outputCount() < OUT_SIZE) {
      const head = this.#get(W_OUT_HEAD);
      this.#output[head & (OUT_SIZE - 1)] = value;
      this.#words[W_OUT_HEAD] = head + 1;
      if (this.#get(W_TOLD) === 0) {
        this.#words[W_TOLD] = 1;
        this.#hasOutput();
      }
    }
    // The line falls and rises again, so that an edge-triggered input sees the next interrupt.
    this.#words[W_THRE_PENDING] = 0;
    this.#updateLine();
    this.#words[W_THRE_PENDING] = this.#transmitterReady() ? 1 : 0;
    this.#updateLine();
  }

  #receive(): number {
    if (this.#inputCount() === 0) return 0;
    const tail = this.#get(W_IN_TAIL);
    const value = this.#input[tail & (IN_SIZE - 1)] ?? 0;
    this.#words[W_IN_TAIL] = tail + 1;
    this.#updateLine();
    return value;
  }

  #enable(value: number): void {
    const risen = value & ~this.#get(W_IER);
    this.#words[W_IER] = value;
    if ((risen & IER_THRI) !== 0 && this.#transmitterReady()) this.#words[W_THRE_PENDING] = 1;
    this.#updateLine();
  }

  /** Interrupt identification; reading it takes the transmitter's interrupt back. */
  #identify(): number {
    const fifo = this.#get(W_FCR) === 0 ? 0 : IIR_FIFO_ENABLED;
    const enabled = this.#get(W_IER);
    if ((enabled & IER_RDI) !== 0 && this.#inputCount() > 0) return fifo | IIR_RDI;
    if ((enabled & IER_THRI) !== 0 && this.#get(W_THRE_PENDING) === 1) {
      this.#words[W_THRE_PENDING] = 0;
      this.#updateLine();
      return fifo | IIR_THRI;
    }
    return fifo | IIR_NO_INT;
  }

  #modemStatus(): number {
    const control = this.#get(W_MCR);
    if ((control & MCR_LOOP) === 0) return MSR_CONNECTED;
    // Loopback: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
    return (
      ((control & 0x02) << 3) |
      ((control & 0x01) << 5) |
      ((control & 0x04) << 4) |
      ((control & 0x08) << 4)
    );
  }

  #updateLine(): void {
    const enabled = this.#get(W_IER);
    const received = (enabled & IER_RDI) !== 0 && this.#inputCount() > 0;
    const sent = (enabled & IER_THRI) !== 0 && this.#get(W_THRE_PENDING) === 1;
    const level = received || sent ? 1 : 0;
    if (level === this.#get(W_LINE)) return;
    this.#words[W_LINE] = level;
    this.#interrupts.setLine(this.#gsi, level === 1);
  }

  #inputCount(): number {
    return (this.#get(W_IN_HEAD) - this.#get(W_IN_TAIL)) >>> 0;
  }

  #outputCount(): number {
    return (this.#get(W_OUT_HEAD) - this.#get(W_OUT_TAIL)) >>> 0;
  }

  /** Drivers fill the whole FIFO once it is empty, without checking in between. */
  #transmitterReady(): boolean {
    return this.#outputCount() <= OUT_SIZE - FIFO_SIZE;
  }

  #get(word: number): number {
    return this.#words[word] ?? 0;
  }
}
