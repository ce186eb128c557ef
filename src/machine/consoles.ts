/** What a guest prints and what is typed into it: the virtio console with its ports, and the serial port. */

import { Duplex } from 'node:stream';
import { InternalError } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import type { Serial16550 } from '../platform/serial-16550.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import type { ConsolePort } from '../virtio/device/console/console-port.ts';
import { UnreadOutput } from '../virtio/device/console/unread-output.ts';

/** Bytes of output to keep: a panic with its trace. */
const KEPT = 8192;

/** The end of what the guest printed, where a panic shows if the guest has no panic device. */
export class OutputTail {
  #text = '';

  add(bytes: Uint8Array): void {
    this.#text = (this.#text + Buffer.from(bytes).toString('latin1')).slice(-KEPT);
  }

  clear(): void {
    this.#text = '';
  }

  /** The kernel's panic line, printable, or undefined. */
  get panic(): string | undefined {
    const line = /Kernel panic - not syncing: [^\r\n]*/.exec(this.#text)?.[0];
    return line === undefined ? undefined : printable(line);
  }
}

/** The guest has not read its input: look again after this long. */
const RETRY_MS = 10;

/**
 * What is written is typed into the guest; what is read is what the guest printed. The
 * guest never waits for a reader: unread output is eventually dropped. It outlives reboots.
 */
export class SerialStream extends Duplex {
  /** Called when something is typed. */
  typed: () => void = () => {};
  readonly #observe: (bytes: Uint8Array) => void;
  #serial: Serial16550 | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #unread: UnreadOutput;

  /**
   * @param observe sees all output as well
   * @param dropping called once, when output is dropped for the first time
   */
  constructor(observe: (bytes: Uint8Array) => void, dropping: () => void = () => {}) {
    super({ decodeStrings: true });
    this.#observe = observe;
    this.#unread = new UnreadOutput(this, dropping);
  }

  /** Bytes of output that were dropped unread. */
  get dropped(): number {
    return this.#unread.dropped;
  }

  /** Connects to the serial port of a board, or to none. */
  connect(serial: Serial16550 | undefined): void {
    this.collect();
    this.#serial = serial;
  }

  /** The guest printed something. */
  collect(): void {
    const output = this.#serial?.takeOutput();
    if (output === undefined || output.length === 0) return;
    this.#observe(output);
    this.#unread.add(output);
  }

  override _read(): void {
    this.#unread.flow();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.typed();
    const rest = chunk.subarray(this.#serial?.pushInput(chunk) ?? 0);
    if (rest.length === 0) {
      done();
      return;
    }
    this.#timer = setTimeout(() => this._write(rest, _encoding, done), RETRY_MS).unref();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    done(error);
  }
}

/** Sees the output of a console. */
interface Watcher {
  readonly console: 'console' | 'serial';
  readonly see: (bytes: Uint8Array) => void;
}

/** They outlive reboots. */
export class Consoles {
  readonly device: ConsoleDevice;
  /** Port 0: hvc0. */
  readonly console: ConsolePort;
  /** ttyS0. */
  readonly serial: SerialStream;
  /** The end of the output of both. */
  readonly tail: OutputTail = new OutputTail();
  readonly #watchers = new Set<Watcher>();

  /**
   * @param agentPort name of the port that the agent listens on; undefined for none
   * @param log gets a line when output starts being dropped
   * @param typed called when something is typed into either
   */
  constructor(agentPort: string | undefined, log: (text: string) => void, typed: () => void) {
    this.device = new ConsoleDevice('console0', agentPort === undefined ? [] : [agentPort]);
    const [console] = this.device.ports;
    if (console === undefined) throw new InternalError('a console without ports');
    console.observe = (bytes) => this.#observe('console', bytes);
    console.dropping = () => log(unread('console'));
    console.typed = typed;
    this.console = console;
    this.serial = new SerialStream(
      (bytes) => this.#observe('serial', bytes),
      () => log(unread('serial port')),
    );
    this.serial.typed = typed;
  }

  /** The port that the agent listens on. */
  get agentPort(): ConsolePort | undefined {
    return this.device.ports[1];
  }

  /** Bytes of output that were dropped unread. */
  get dropped(): { readonly console: number; readonly serial: number } {
    return { console: this.console.dropped, serial: this.serial.dropped };
  }

  /** Calls back with all output of a console from now on. @returns ends that */
  watch(console: 'console' | 'serial', see: (bytes: Uint8Array) => void): () => void {
    const watcher = { console, see };
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  #observe(console: 'console' | 'serial', bytes: Uint8Array): void {
    this.tail.add(bytes);
    for (const watcher of this.#watchers) if (watcher.console === console) watcher.see(bytes);
  }

  /** Discards output that nothing listens to. */
  flow(): void {
    for (const stream of [this.serial, ...this.device.ports]) {
      if (stream.readableFlowing === null) stream.resume();
    }
  }
}

function unread(what: string): string {
  return `the output of the guest's ${what} is not being read: beyond 1 MiB it is dropped`;
}
