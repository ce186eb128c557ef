/**
 * A device's configuration space with its generation (virtio 1.3 §2.5, §4.1.4.3.1), in the state
 * buffer. All methods run with the register lock held, in any thread.
 */
import { ByteRing, type SharedState, type TakenBytes } from '../../state/shared-state.ts';
import type { RegisterObserver } from '../register-observer.ts';
import type { DeviceShape } from './transport.ts';

const GENERATION = 0;
/** The device changed something since the driver last read. */
const CHANGED = 1;
/** Bytes of emergency writes that wait for the owner. */
const EMERGENCY_SIZE = 4096;

/** A range of bytes. */
export interface ConfigRange {
  readonly offset: number;
  readonly length: number;
}

/** The bytes that the driver reads, and may write where the shape's mask lets it. */
export class ConfigSpace {
  /** The current bytes. */
  readonly view: DataView;
  readonly #shape: DeviceShape;
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  /** 1 for each byte that the driver wrote since the owner last looked. */
  readonly #written: Uint8Array;
  readonly #emergency: ByteRing | undefined;
  readonly #observer: RegisterObserver | undefined;

  constructor(state: SharedState, shape: DeviceShape, observer?: RegisterObserver) {
    const { length } = shape.config;
    this.#shape = shape;
    this.#observer = observer;
    this.#words = state.words(2);
    this.#bytes = state.bytes(Math.max(length, 1)).subarray(0, length);
    this.view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, length);
    this.#written = state.bytes(Math.max(length, 1));
    if (shape.emergencyWrite !== undefined) this.#emergency = new ByteRing(state, EMERGENCY_SIZE);
  }

  /** Power-on state. */
  powerOn(): void {
    this.#bytes.set(this.#shape.config);
    this.#words.fill(0);
  }

  /**
   * The device changed its configuration. The generation changes when the driver reads the space, so
   * that it cannot wrap around between two reads (§4.1.4.3.1).
   */
  changed(): void {
    this.#words[CHANGED] = 1;
    this.#observer?.({ what: 'config changed' });
  }

  /** 8 bits. */
  get generation(): number {
    return (this.#words[GENERATION] ?? 0) & 0xff;
  }

  /** @param size 1, 2 or 4; 0 is read past the end */
  read(offset: number, size: number): number {
    const value = this.#read(offset, size);
    this.#observer?.({ what: 'config read', offset, size, value });
    return value;
  }

  #read(offset: number, size: number): number {
    if (offset + size > this.#bytes.length) return 0;
    if (this.#words[CHANGED] === 1) {
      this.#words[CHANGED] = 0;
      this.#words[GENERATION] = (this.#words[GENERATION] ?? 0) + 1;
    }
    if (size === 1) return this.view.getUint8(offset);
    return size === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true);
  }

  /** Returns false when the driver may write none of its bytes. */
  write(offset: number, size: number, value: number): boolean {
    if (offset + size > this.#bytes.length) return false;
    let writable = 0;
    for (let i = 0; i < size; i++) {
      const mask = this.#shape.configWriteMask[offset + i] ?? 0;
      const byte = (value >>> (8 * i)) & mask;
      writable |= mask;
      if (mask === 0) continue;
      this.#written[offset + i] = 1;
      this.view.setUint8(offset + i, (this.view.getUint8(offset + i) & ~mask) | byte);
    }
    if (offset === this.#shape.emergencyWrite) this.#emergency?.push(value & 0xff);
    return writable !== 0;
  }

  /** Ranges that the driver wrote since the last time, once or more. */
  takeWritten(): ConfigRange[] {
    const written = this.#written;
    const ranges: ConfigRange[] = [];
    for (let at = written.indexOf(1); at >= 0; at = written.indexOf(1, at)) {
      const offset = at;
      while (written[at] === 1) written[at++] = 0;
      ranges.push({ offset, length: at - offset });
    }
    return ranges;
  }

  /** The bytes of emergency writes since the last time. */
  takeEmergency(): TakenBytes | undefined {
    return this.#emergency?.take();
  }
}
