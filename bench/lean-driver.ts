/** Requests of one kind for a device on a rig, in this thread: see `LeanRequests`. */
import type { DeviceRig } from '../src/testing/index.ts';
import { LeanRequests } from './lean-requests.ts';

/** What all requests look like. */
export interface LeanRequest {
  /** Bytes for the device to read; none when empty. */
  readonly readable: Uint8Array;
  /** Lengths of the buffers that the device may write. */
  readonly writable: readonly number[];
  /** Changes the readable bytes before each use. */
  readonly renew?: (readable: DataView) => void;
}

/** Keeps the device busy with them, on queue 0 of a rig. */
export class LeanDriver {
  readonly #requests: LeanRequests;

  /** @param depth requests at a time */
  constructor(rig: DeviceRig, depth: number, { readable, writable, renew }: LeanRequest) {
    const out = readable.length > 0 ? [{ length: readable.length, writable: false }] : [];
    const segments = [...out, ...writable.map((length) => ({ length, writable: true }))];
    const requests = new LeanRequests(
      {
        queue: rig.queue(0),
        heap: rig.heap,
        notify: () => rig.notify(0),
        wait: () => rig.pump(1000),
        depth,
      },
      segments,
      (chain) => {
        const [first] = requests.views[chain] ?? [];
        if (out.length > 0 && first !== undefined) renew?.(first);
      },
    );
    for (const [first] of requests.views) {
      if (out.length === 0 || first === undefined) continue;
      for (const [i, byte] of readable.entries()) first.setUint8(i, byte);
    }
    this.#requests = requests;
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    this.#requests.run(requests);
  }
}
