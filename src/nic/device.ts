/** An emulated network card, the Intel 82540EM that Linux drives as e1000: the control half. */
import { formatMac, generateMac, parseMac, Tap } from '../backend/tap.ts';
import type { E1000HandlerOptions } from './e1000-handler.ts';

/** A network interface of a machine. */
export interface E1000Options {
  /** For messages and the thread: `net0`. */
  readonly name: string;
  /** Used when it exists, else made. Default: made, with a free name. */
  readonly tap?: string;
  /** `52:54:00:12:34:56`. Default: locally administered, from the tap's name. */
  readonly mac?: string;
  /** For the host's side of a tap made here: `10.0.2.1/24`. */
  readonly hostAddress?: string;
  /** Bytes, 68 to 16110, of a tap made here. Default 1500. */
  readonly mtu?: number;
}

/** A card with its tap. */
export class E1000Device {
  readonly name: string;
  /** Six bytes. */
  readonly macBytes: Uint8Array;
  /** The data half: a module for a queue worker, and its options. */
  readonly module: string = new URL('./e1000-handler.js', import.meta.url).href;
  readonly options: E1000HandlerOptions;
  readonly #tap: Tap;

  /** @throws UsageError when the options or the tap cannot be used, HostError when the host fails */
  constructor({ name, tap, mac, hostAddress, mtu }: E1000Options) {
    const address = mac === undefined ? null : parseMac(mac);
    this.name = name;
    this.#tap = new Tap({
      ...(tap === undefined ? {} : { name: tap }),
      ...(hostAddress === undefined ? {} : { hostAddress }),
      ...(mtu === undefined ? {} : { mtu }),
    });
    this.macBytes = address ?? generateMac(this.#tap.name);
    this.options = { fd: this.#tap.fds[0] ?? -1 };
  }

  /** The tap's name on the host. */
  get tapName(): string {
    return this.#tap.name;
  }

  /** `52:54:00:12:34:56`. */
  get mac(): string {
    return formatMac(this.macBytes);
  }

  /** A tap made here is gone after it. */
  close(): void {
    this.#tap.close();
  }
}
