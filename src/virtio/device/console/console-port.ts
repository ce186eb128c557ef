/** One port of a console device as the host sees it: a byte stream that outlives guest resets. */
import { Duplex } from 'node:stream';
import { UnreadOutput } from './unread-output.ts';

/** The most bytes of guest output per read: bounds the cost of a hostile chain. */
const PIECE = 0x10000;

/** Where a port's bytes come from and go to while a driver is there. */
export interface PortDriver {
  /** There is input for the guest, or room for its output again. */
  wake(port: number): void;
}

/**
 * Writes to the stream are typed into the guest; reads return what the guest printed.
 * Port 0 is the console and never makes the guest wait: unread output is eventually
 * dropped (`UnreadOutput`). The other ports block their guest until they are read.
 */
export class ConsolePort extends Duplex {
  readonly index: number;
  /** Name by which the guest finds it; empty for the console itself. */
  readonly portName: string;
  /** Set while a driver serves the port. */
  driver: PortDriver | undefined;
  /** Sees all output as well. */
  observe: (bytes: Uint8Array) => void = () => {};
  /** Called once, when output of the console is dropped for the first time. */
  dropping: () => void = () => {};
  /** Called when something is typed. */
  typed: () => void = () => {};
  readonly #unread: UnreadOutput | undefined;
  #input: Buffer | undefined;
  #inputAt = 0;
  #inputDone: (() => void) | undefined;
  #outputFull = false;
  #guestOpen = false;

  constructor(index: number, portName: string) {
    super({ allowHalfOpen: true, decodeStrings: true });
    this.index = index;
    this.portName = portName;
    this.#unread = index === 0 ? new UnreadOutput(this, () => this.dropping()) : undefined;
  }

  /** Bytes of output that were dropped unread. */
  get dropped(): number {
    return this.#unread?.dropped ?? 0;
  }

  /** Whether a process in the guest holds the port open. The event `guestOpen` reports changes. */
  get guestOpen(): boolean {
    return this.#guestOpen;
  }

  set guestOpen(open: boolean) {
    if (open === this.#guestOpen) return;
    this.#guestOpen = open;
    this.emit('guestOpen', open);
  }

  /** Bytes that wait for the guest. */
  get waiting(): number {
    return this.#input === undefined ? 0 : this.#input.length - this.#inputAt;
  }

  /** True when the guest has to wait until its output is read. */
  get outputFull(): boolean {
    return this.#outputFull;
  }

  /** Up to `length` bytes for the guest; `consume` takes them. */
  peek(length: number): Uint8Array {
    return this.#input?.subarray(this.#inputAt, this.#inputAt + length) ?? new Uint8Array(0);
  }

  consume(length: number): void {
    this.#inputAt += length;
    if (this.waiting === 0) this.#finishInput();
  }

  /** The guest's output; the next piece may follow when `outputFull` is false. */
  deliver(bytes: Uint8Array): void {
    this.observe(bytes);
    if (this.#unread !== undefined) {
      this.#unread.add(bytes);
      return;
    }
    // A destroyed stream will never be read.
    this.#outputFull = !this.destroyed && !this.push(bytes);
  }

  /** Discards input that nothing in the guest will read any more. */
  dropInput(): void {
    if (this.#input !== undefined) this.#finishInput();
  }

  static readonly pieceSize: number = PIECE;

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#input = chunk;
    this.#inputAt = 0;
    this.#inputDone = done;
    if (chunk.length === 0) {
      this.#finishInput();
      return;
    }
    this.driver?.wake(this.index);
    this.typed();
  }

  override _read(): void {
    this.#unread?.flow();
    if (!this.#outputFull) return;
    this.#outputFull = false;
    this.driver?.wake(this.index);
  }

  #finishInput(): void {
    const done = this.#inputDone;
    this.#input = undefined;
    this.#inputDone = undefined;
    done?.();
  }
}
