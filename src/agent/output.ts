/** A command's output as a Node stream that gives its window back as it is read. */
import { Readable } from 'node:stream';
import { protocolError, STREAM_WINDOW } from './protocol.ts';

/** Credit is given in steps of this: a frame per keystroke would be waste. */
const CREDIT_STEP = STREAM_WINDOW / 4;

/** Pieces shorter than this are joined while they wait: each would cost more than it holds. */
const SMALL = 4096;
const BLOCK = 4 * SMALL;

/** Bytes from the guest on their way to a reader. */
export class Output extends Readable {
  readonly #credit: (bytes: number) => void;
  #queue: Buffer[] = [];
  /** Where small pieces are joined: while set, the last of the queue is its first #blockEnd bytes. */
  #block: Buffer | undefined;
  #blockEnd = 0;
  #wanted = false;
  #finished = false;
  #ended = false;
  /** Bytes taken by the reader since the last credit. */
  #taken = 0;
  /** Bytes arrived that no credit was given for. */
  #owed = 0;

  /** @param credit grants the sender that many more bytes */
  constructor(credit: (bytes: number) => void) {
    super({ highWaterMark: CREDIT_STEP });
    this.#credit = credit;
  }

  /**
   * Takes bytes that have arrived.
   * @throws PeerError when they are more than the window allows, or come after the end
   */
  feed(bytes: Buffer): void {
    if (this.#finished) throw protocolError('output after its end');
    this.#owed += bytes.length;
    if (this.#owed > STREAM_WINDOW) throw protocolError('output beyond its window');
    if (bytes.length < SMALL && this.#queue.length > 0) this.#join(bytes);
    else this.#append(bytes);
    this.#flush();
  }

  /** No more will come. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#flush();
  }

  override _read(): void {
    this.#wanted = true;
    this.#flush();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#flush();
    done(error);
  }

  #append(bytes: Buffer): void {
    this.#block = undefined;
    this.#queue.push(bytes);
  }

  #join(bytes: Buffer): void {
    if (this.#block !== undefined && this.#blockEnd + bytes.length <= BLOCK) {
      this.#queue.pop();
    } else {
      this.#block = Buffer.allocUnsafe(BLOCK);
      this.#blockEnd = 0;
    }
    bytes.copy(this.#block, this.#blockEnd);
    this.#blockEnd += bytes.length;
    this.#queue.push(this.#block.subarray(0, this.#blockEnd));
  }

  #flush(): void {
    while (this.#queue.length > 0 && (this.#wanted || this.destroyed)) {
      const bytes = this.#queue.shift() as Buffer;
      this.#taken += bytes.length;
      if (this.#taken >= CREDIT_STEP) {
        this.#credit(this.#taken);
        this.#owed -= this.#taken;
        this.#taken = 0;
      }
      // A reader that has left must not hold up the writer: its bytes are dropped.
      if (!this.destroyed) this.#wanted = this.push(bytes);
    }
    if (this.#finished && !this.#ended && this.#queue.length === 0 && !this.destroyed) {
      this.#ended = true;
      this.push(null);
    }
  }
}
