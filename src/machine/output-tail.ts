/** The end of what the guest printed: where a panic shows when the guest has no panic device. */
import { printable } from '../host/untrusted-text.ts';

const KEPT = 8192;

/** Keeps the last bytes. */
export class OutputTail {
  #text = '';

  add(bytes: Uint8Array): void {
    this.#text = (this.#text + Buffer.from(bytes).toString('latin1')).slice(-KEPT);
  }

  clear(): void {
    this.#text = '';
  }

  /** The kernel's own line on its panic, printable, or undefined. */
  get panic(): string | undefined {
    const line = /Kernel panic - not syncing: [^\r\n]*/.exec(this.#text)?.[0];
    return line === undefined ? undefined : printable(line);
  }
}
