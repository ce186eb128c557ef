/** The driver's side of a split virtqueue that costs next to nothing: chains that are laid out once. */
import { virtq_desc } from '../src/abi/virtio-ring.ts';
import type { DeviceRig } from '../src/testing/index.ts';

/** What all requests look like. */
export interface LeanRequest {
  /** Bytes for the device to read; none when empty. */
  readonly readable: Uint8Array;
  /** Lengths of the buffers that the device may write. */
  readonly writable: readonly number[];
  /** Changes the readable bytes before each use. */
  readonly renew?: (readable: DataView) => void;
}

/** Keeps the device busy with one kind of request, on queue 0 of a rig. */
export class LeanDriver {
  readonly #rig: DeviceRig;
  readonly #request: LeanRequest;
  readonly #depth: number;
  readonly #size: number;
  readonly #segments: number;
  readonly #readable: DataView[] = [];
  #avail = 0;

  /** @param depth requests at a time */
  constructor(rig: DeviceRig, depth: number, request: LeanRequest) {
    this.#rig = rig;
    this.#request = request;
    this.#depth = depth;
    this.#size = rig.queue(0).config.size;
    this.#segments = (request.readable.length > 0 ? 1 : 0) + request.writable.length;
    for (let chain = 0; chain < depth; chain++) this.#layOut(chain);
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    const { driverArea, deviceArea } = this.#rig.queue(0);
    let seen = deviceArea.getUint16(2, true);
    let done = 0;
    for (let chain = 0; chain < this.#depth; chain++) this.#offer(chain);
    driverArea.setUint16(2, this.#avail, true);
    let left = requests - this.#depth;
    while (done < requests) {
      this.#rig.notify(0);
      let used = deviceArea.getUint16(2, true);
      while (used === seen) {
        this.#rig.pump(1000);
        used = deviceArea.getUint16(2, true);
      }
      for (; seen !== used; seen = (seen + 1) & 0xffff) {
        const head = deviceArea.getUint32(4 + (seen % this.#size) * 8, true);
        if (left-- > 0) this.#offer(head / this.#segments);
        done++;
      }
      driverArea.setUint16(2, this.#avail, true);
    }
  }

  #offer(chain: number): void {
    const readable = this.#readable[chain];
    if (readable !== undefined) this.#request.renew?.(readable);
    const { driverArea } = this.#rig.queue(0);
    driverArea.setUint16(4 + (this.#avail % this.#size) * 2, chain * this.#segments, true);
    this.#avail = (this.#avail + 1) & 0xffff;
  }

  #layOut(chain: number): void {
    const { heap } = this.#rig;
    const { readable, writable } = this.#request;
    const { descriptorArea } = this.#rig.queue(0);
    const out = readable.length > 0 ? 1 : 0;
    [...(out === 1 ? [readable.length] : []), ...writable].forEach((length, i) => {
      const gpa = heap.allocate(length);
      const index = chain * this.#segments + i;
      const at = index * virtq_desc.size;
      const next = i < this.#segments - 1 ? 1 : 0;
      const write = i < out ? 0 : 2;
      descriptorArea.setBigUint64(at, BigInt(gpa), true);
      descriptorArea.setUint32(at + 8, length, true);
      descriptorArea.setUint16(at + 12, next | write, true);
      descriptorArea.setUint16(at + 14, index + 1, true);
      if (write !== 0) return;
      heap.bytes(gpa, length).set(readable);
      this.#readable[chain] = heap.view(gpa, length);
    });
  }
}
