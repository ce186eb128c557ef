/** Option values of the form `first,key,key=value`, as in `--disk image.raw,ro,queues=2`. */
import { UsageError } from '../host/errors.ts';

/** One option's value, taken apart. Each key may be taken once; `finish` refuses those left. */
export class KeyValues {
  readonly #option: string;
  readonly #text: string;
  readonly #values = new Map<string, string>();

  /**
   * @param option its name for messages, e.g. `--disk`
   * @param firstKey the key that the first part stands for when it is written without one
   * @throws UsageError on an empty or repeated part
   */
  constructor(option: string, text: string, firstKey: string) {
    this.#option = option;
    this.#text = text;
    // A doubled comma is a comma in a value.
    const parts = text.split(/(?<!,),(?!,)/).map((part) => part.replaceAll(',,', ','));
    for (const [index, part] of parts.entries()) {
      const equals = part.indexOf('=');
      const bare = index === 0 && !/^[a-z-]+=/.test(part);
      const key = bare ? firstKey : equals < 0 ? part : part.slice(0, equals);
      const value = bare ? part : equals < 0 ? 'on' : part.slice(equals + 1);
      if (key === '' || value === '') this.#refuse('has an empty part');
      if (this.#values.has(key)) this.#refuse(`names ${key} twice`);
      this.#values.set(key, value);
    }
  }

  /** The value of a key, undefined when it is not there. */
  text(key: string): string | undefined {
    const value = this.#values.get(key);
    this.#values.delete(key);
    return value;
  }

  /** A switch: `key`, `key=on`, `key=off`. */
  flag(key: string): boolean | undefined {
    const value = this.text(key);
    if (value === undefined) return undefined;
    if (value !== 'on' && value !== 'off') this.#refuse(`has ${key}=${value}; take on or off`);
    return value === 'on';
  }

  /** A whole number of at least 1. @param digits the most that it may have */
  count(key: string, digits = 9): number | undefined {
    const value = this.text(key);
    if (value === undefined) return undefined;
    if (!/^[1-9][0-9]*$/.test(value) || value.length > digits) {
      this.#refuse(`has ${key}=${value}; take a whole number from 1`);
    }
    return Number(value);
  }

  /** One of some words. */
  choice<T extends string>(key: string, choices: readonly T[]): T | undefined {
    const value = this.text(key);
    if (value === undefined) return undefined;
    const found = choices.find((choice) => choice === value);
    if (found === undefined) this.#refuse(`has ${key}=${value}; take ${choices.join(' or ')}`);
    return found;
  }

  /** All that nobody took. */
  rest(): Record<string, string> {
    const rest = Object.fromEntries(this.#values);
    this.#values.clear();
    return rest;
  }

  /** @throws UsageError naming a key that nobody took */
  finish(known: readonly string[]): void {
    for (const key of this.#values.keys()) {
      this.#refuse(`does not know ${key}; it takes ${known.join(', ')}`);
    }
  }

  #refuse(what: string): never {
    throw new UsageError('E_OPTION', `${this.#option} ${this.#text} ${what}`);
  }
}
