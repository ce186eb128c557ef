/** Options in text form: `first,key,key=value`, as in `--disk image.raw,ro,queues=2`. */
import { UsageError } from '../host/errors.ts';
import {
  alternatives,
  fieldsOf,
  type OptionField,
  type OptionSchema,
  suggestion,
} from './option-schema.ts';

/**
 * Parses a text.
 * @param option its name in messages, e.g. `--disk`
 * @param firstKey the key of the first part when it is written without one
 * @throws UsageError on an empty or repeated part
 */
export function splitKeys(option: string, text: string, firstKey: string): Map<string, string> {
  const values = new Map<string, string>();
  const refuse = (what: string): never => {
    throw new UsageError('E_OPTION', `${option} ${text} ${what}`);
  };
  // A doubled comma is a literal comma in a value.
  const parts = text.split(/(?<!,),(?!,)/).map((part) => part.replaceAll(',,', ','));
  for (const [index, part] of parts.entries()) {
    const equals = part.indexOf('=');
    const bare = index === 0 && !/^[a-z-]+=/.test(part);
    const key = bare ? firstKey : equals < 0 ? part : part.slice(0, equals);
    const value = bare ? part : equals < 0 ? 'on' : part.slice(equals + 1);
    if (key === '' || value === '') refuse('has an empty part');
    if (values.has(key)) refuse(`names ${key} twice`);
    values.set(key, value);
  }
  return values;
}

/**
 * Options by name, from their keys; values that are not a number or a word of the schema are refused.
 * @param said the option and its text, for messages
 * @throws UsageError
 */
export function optionsFromKeys<T extends object = Record<string, unknown>>(
  schema: OptionSchema,
  values: ReadonlyMap<string, string>,
  said: string,
): T {
  const refuse = (what: string, remedy?: string): never => {
    throw new UsageError('E_OPTION', `${said} ${what}`, remedy);
  };
  const fields = fieldsOf(schema);
  const left = new Map(values);
  const found: Record<string, unknown> = {};
  const put = ({ path }: OptionField, value: unknown): void => {
    let at = found;
    for (const name of path.slice(0, -1)) {
      at[name] ??= {};
      at = at[name] as Record<string, unknown>;
    }
    at[path.at(-1) ?? ''] = value;
  };
  for (const field of fields.filter(({ details }) => details.rest !== true)) {
    const { key, required, details } = field;
    const value = left.get(key);
    left.delete(key);
    if (value === undefined && required) refuse(`has no ${key}=${details.value ?? 'VALUE'}`);
    if (value === undefined || value === details.unset) continue;
    put(
      field,
      parsed(field, value) ?? refuse(`has ${key}=${value}`, `${key} must be ${wanted(field)}`),
    );
  }
  const rest = fields.find(({ details }) => details.rest);
  if (rest !== undefined) put(rest, Object.fromEntries(left));
  const [unknown] = rest === undefined ? left.keys() : [];
  if (unknown !== undefined) {
    const known = fields.map(({ key }) => key);
    refuse(`does not know ${unknown}`, suggestion(unknown, known));
  }
  return found as T;
}

/** @returns undefined when the field does not allow it */
function parsed({ type, choices, details, fits }: OptionField, text: string): unknown {
  if (type === 'flag') return text === 'on' ? true : text === 'off' ? false : undefined;
  const toNumber = details.bytes === true ? bytesOf : numberOf;
  const value = type === 'number' || typeof choices[0] === 'number' ? toNumber(text) : text;
  return fits(value) ? (type === 'list' ? [text] : value) : undefined;
}

/** A size in bytes: `512M`, `4G`, `65536K`; a bare number counts MiB. @returns undefined when it is none */
export function bytesOf(text: string): number | undefined {
  const match = /^([1-9][0-9]{0,9})([KMGT]?)(i?B)?$/i.exec(text);
  if (match === null) return undefined;
  const units: Record<string, number> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
  return Number(match[1]) * (units[(match[2] || 'M').toUpperCase()] ?? 1);
}

function numberOf(text: string): number | undefined {
  return /^[0-9]+$/.test(text) ? Number(text) : undefined;
}

function wanted({ type, choices, details }: OptionField): string {
  if (type === 'flag') return 'on or off';
  if (type === 'choice') return alternatives(choices);
  return details.expected ?? 'a value';
}

/** The keys in the form that help shows: `ro queues= engine=sync|io_uring offloads=off`. */
export function keysHelp(schema: OptionSchema, without: readonly string[] = []): string {
  return fieldsOf(schema)
    .filter(({ key, details }) => !(details.hidden || details.rest || without.includes(key)))
    .map(keyHelp)
    .join(' ');
}

function keyHelp({ key, type, choices, details }: OptionField): string {
  if (type === 'flag') return details.on === true ? `${key}=off` : key;
  return `${key}=${type === 'choice' ? choices.join('|') : (details.value ?? '')}`;
}
