/** The fields of a defined device's configuration space, by name. */
import { UsageError } from '../../host/errors.ts';
import type { ConfigField } from './definition.ts';

interface Placed extends ConfigField {
  readonly offset: number;
}

/** The offset of each field. Values are numbers: 8-byte fields are exact below 2^53. */
export class ConfigFields {
  readonly size: number;
  readonly #fields = new Map<string, Placed>();

  constructor(config: Readonly<Record<string, ConfigField>> = {}) {
    let offset = 0;
    for (const [name, field] of Object.entries(config)) {
      this.#fields.set(name, { ...field, offset });
      offset += field.bytes;
    }
    this.size = offset;
  }

  /** The initial bytes. */
  initial(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.size);
    const view = new DataView(bytes.buffer);
    for (const [name, { initial = 0 }] of this.#fields) this.set(view, name, initial);
    return bytes;
  }

  /** 0xff where the driver may write. */
  writeMask(): Uint8Array {
    const mask = new Uint8Array(this.size);
    for (const { offset, bytes, writable } of this.#fields.values()) {
      if (writable === true) mask.fill(0xff, offset, offset + bytes);
    }
    return mask;
  }

  /** @throws UsageError when there is no such field */
  get(view: DataView, name: string): number {
    const { offset, bytes } = this.#field(name);
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + view.getUint8(offset + i);
    return value;
  }

  /** @throws UsageError when there is no such field, or it is too small for the value */
  set(view: DataView, name: string, value: number): void {
    const { offset, bytes } = this.#field(name);
    if (!Number.isSafeInteger(value) || value < 0 || value >= 256 ** bytes) {
      throw new UsageError(
        'E_CONFIG',
        `${value} does not fit config field ${name}, ${bytes} bytes`,
      );
    }
    let rest = value;
    for (let i = 0; i < bytes; i++) {
      view.setUint8(offset + i, rest % 256);
      rest = Math.floor(rest / 256);
    }
  }

  /** The fields that a range of bytes touches. */
  touched(offset: number, length: number): string[] {
    return [...this.#fields]
      .filter(([, field]) => field.offset < offset + length && offset < field.offset + field.bytes)
      .map(([name]) => name);
  }

  #field(name: string): Placed {
    const field = this.#fields.get(name);
    if (field !== undefined) return field;
    const names = [...this.#fields.keys()].join(', ') || 'none';
    throw new UsageError('E_CONFIG', `no config field ${name}`, `the fields are: ${names}`);
  }
}
