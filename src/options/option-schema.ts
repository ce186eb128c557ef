/**
 * Options as data: their names, their allowed values, their keys on the command line. The
 * program's API, its command line, help and documentation are checked against and made from these.
 */
import * as v from 'valibot';
import { UsageError } from '../host/errors.ts';

/** Checks a value of one type. */
export type OptionSchema<T = unknown> = v.GenericSchema<T>;

/** What a schema alone does not express about an option. */
export interface OptionDetails {
  /** Its key on the command line; null: none. Default: its name in kebab case. */
  readonly key?: string | null;
  /** The placeholder for its value in messages and help, e.g. `FILE`. */
  readonly value?: string;
  /** What it must be, as in `must be ...`. Default: made from the schema. */
  readonly expected?: string;
  /** A switch that is on unless turned off. */
  readonly on?: boolean;
  /** Value on the command line that means the option is absent. */
  readonly unset?: string;
  /** The option collects all keys that are not another option's. */
  readonly rest?: boolean;
  /** Code of the error when the value is refused. Default: that of its parent, else E_OPTION. */
  readonly code?: string;
  /** Bytes, for which the command line takes units: `512M`. */
  readonly bytes?: boolean;
  /** What it does, for the help of an option that is not a key of another one. */
  readonly help?: string;
  /** Left out of the help of its parent's options. */
  readonly hidden?: boolean;
  /** It names a file or folder whose changes must be visible when these options are used. */
  readonly path?: 'file' | 'folder';
  /** Whether that is so; default: always. */
  shared?(options: object): boolean;
}

type RequiredKeys<T> = { [K in keyof T]-?: object extends Pick<T, K> ? never : K }[keyof T];
/** A schema for each of an interface's options: those that must be given, and the others. */
export type RequiredOptions<T> = { readonly [K in RequiredKeys<T>]: OptionSchema<T[K]> };
export type OtherOptions<T> = {
  readonly [K in Exclude<keyof T, RequiredKeys<T>>]-?: OptionSchema<NonNullable<T[K]>>;
};

/** An object with these options and no others. */
export function options<T extends object>(
  required: RequiredOptions<T>,
  optional: OtherOptions<T>,
  details: OptionDetails = {},
): OptionSchema<T> {
  const others = Object.entries<OptionSchema>(optional).map(([name, schema]) => [
    name,
    v.optional(schema),
  ]);
  const entries = { ...required, ...Object.fromEntries(others) } as v.ObjectEntries;
  const schema = v.pipe(
    // For valibot, an array is an object, too.
    v.custom<object>((value) => !Array.isArray(value)),
    v.strictObject(entries),
    v.transform(given),
    v.metadata({ ...details }),
  );
  return schema as unknown as OptionSchema<T>;
}

/** An object without the keys whose values are undefined: options contain only what was requested. */
export function given<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as T;
}

/** A whole number. */
export function integer(
  min: number,
  max: number,
  details: OptionDetails = {},
): OptionSchema<number> {
  const expected = `${min} to ${max}`;
  return v.pipe(
    v.number(),
    v.integer(),
    v.minValue(min),
    v.maxValue(max),
    v.metadata({ expected, ...details }),
  );
}

/** A number that fits a rule. */
export function number(
  fits: (value: number) => boolean,
  details: OptionDetails & { readonly expected: string },
): OptionSchema<number> {
  return v.pipe(v.number(), v.check(fits), v.metadata({ ...details }));
}

/** A string, which may not be empty. @param fits a rule for it */
export function text(
  details: OptionDetails = {},
  fits: (text: string) => boolean = () => true,
): OptionSchema<string> {
  return v.pipe(v.string(), v.nonEmpty(), v.check(fits), v.metadata({ ...details }));
}

/** On or off. */
export function flag(details: OptionDetails = {}): OptionSchema<boolean> {
  return v.pipe(v.boolean(), v.metadata({ ...details }));
}

/** One of a few words or numbers. */
export function choice<const T extends string | number>(
  choices: readonly T[],
  details: OptionDetails = {},
): OptionSchema<T> {
  return v.pipe(v.picklist(choices), v.metadata({ ...details }));
}

/** Several of a kind. */
export function list<T>(of: OptionSchema<T>, details: OptionDetails = {}): OptionSchema<T[]> {
  return v.pipe(v.array(of), v.metadata({ ...details }));
}

/** Strings by arbitrary keys. */
export function strings(details: OptionDetails = {}): OptionSchema<Record<string, string>> {
  return v.pipe(v.record(v.string(), v.string()), v.metadata({ ...details }));
}

/** A value that only a program can pass. */
export function value<T>(fits: (value: unknown) => boolean, expected: string): OptionSchema<T> {
  return v.pipe(v.custom<T>(fits), v.metadata({ expected, key: null }));
}

/** The parts of a valibot schema that the functions here use. */
interface SchemaParts {
  readonly type: string;
  readonly entries?: Readonly<Record<string, OptionSchema>>;
  readonly item?: OptionSchema;
  readonly wrapped?: OptionSchema;
  readonly pipe?: readonly SchemaParts[];
  readonly options?: readonly (string | number)[];
}

function partsOf(schema: OptionSchema): SchemaParts {
  const parts = schema as unknown as SchemaParts;
  if (parts.wrapped !== undefined) return partsOf(parts.wrapped);
  return parts.pipe?.find(({ entries }) => entries !== undefined) ?? parts;
}

export function detailsOf(schema: OptionSchema): OptionDetails {
  const { wrapped } = schema as unknown as SchemaParts;
  return wrapped === undefined ? (v.getMetadata(schema) as OptionDetails) : detailsOf(wrapped);
}

/** An option, of an object or nested in one, as the command line sees it. */
export interface OptionField {
  /** Path of names to it. */
  readonly path: readonly string[];
  /** Its key on the command line. */
  readonly key: string;
  readonly type: 'flag' | 'number' | 'text' | 'choice' | 'list' | 'strings';
  readonly choices: readonly (string | number)[];
  readonly required: boolean;
  readonly details: OptionDetails;
  /** Whether it, or an element of its list, may be this. */
  fits(value: unknown): boolean;
}

const TYPES: Readonly<Record<string, OptionField['type']>> = {
  ...{ boolean: 'flag', number: 'number', string: 'text' },
  ...{ picklist: 'choice', array: 'list', record: 'strings' },
};

/** All options that have a key on the command line; objects in it are flat there. */
export function fieldsOf(schema: OptionSchema, path: readonly string[] = []): OptionField[] {
  return Object.entries(partsOf(schema).entries ?? {}).flatMap(([name, entry]): OptionField[] => {
    const { type, entries, item = entry, options: choices = [] } = partsOf(entry);
    const details = detailsOf(entry);
    const at = [...path, name];
    const required = !('wrapped' in entry);
    if (entries !== undefined) {
      const { hidden = false } = details;
      return fieldsOf(entry, at).map((field) => ({
        ...field,
        required: required && field.required,
        // In its parent's help, not in its own.
        details: { hidden, ...field.details },
      }));
    }
    const key = details.key === undefined ? kebab(name) : details.key;
    const kind = TYPES[type];
    if (key === null || kind === undefined) return [];
    const fits = (value: unknown): boolean => v.is(item, value);
    return [{ path: at, key, type: kind, choices, required, details, fits }];
  });
}

/** Whether an object of this schema may have an option. */
export function hasOption(schema: OptionSchema, name: string): boolean {
  return partsOf(schema).entries?.[name] !== undefined;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/**
 * A copy of a value that keeps a schema's rules.
 * @param name the value's name in messages: '' for all options of a machine, or `disks[0]`
 * @param note added to messages about an unknown key
 * @throws UsageError for the first error, in one line
 */
export function checkOptions<T>(
  schema: OptionSchema<T>,
  value: unknown,
  name: string,
  note = '',
): T {
  const { success, output, issues } = v.safeParse(schema, value);
  if (success) return output;
  // A misspelled key explains a missing one.
  const issue = issues.find(isUnknown) ?? issues[0];
  const keys = (issue.path ?? []).map(({ key }) => key as string | number);
  throw refusal(schema, issue, keys, name, note);
}

type Issue = v.BaseIssue<unknown>;

const isUnknown = (issue: Issue): boolean =>
  issue.type === 'strict_object' && issue.expected === 'never';

function refusal(
  schema: OptionSchema,
  issue: Issue,
  keys: readonly (string | number)[],
  name: string,
  note: string,
): UsageError {
  let at = schema;
  let { code } = detailsOf(at);
  for (const key of keys) {
    const { entries, item } = partsOf(at);
    const next = item ?? (entries && Object.hasOwn(entries, key) ? entries[key] : undefined);
    if (next === undefined) break;
    at = next;
    code = detailsOf(at).code ?? code;
  }
  const parent = placeOf(name, keys.slice(0, -1));
  const last = String(keys.at(-1) ?? '');
  if (isUnknown(issue)) {
    const names = Object.keys(partsOf(at).entries ?? {});
    const about = note === '' ? '' : ` (${note})`;
    const of = parent === '' ? '' : ` of ${parent}${about}`;
    return new UsageError(
      code ?? 'E_OPTION',
      `unknown option ${last}${of}`,
      suggestion(last, names),
    );
  }
  const place = placeOf(name, keys);
  if (issue.input === undefined && issue.kind === 'schema' && keys.length > 0) {
    return new UsageError(
      code ?? 'E_OPTION',
      `${place} is missing`,
      `it must be ${expectation(at)}`,
    );
  }
  const wrongType = issue.kind === 'schema' && issue.type !== 'picklist';
  const found = wrongType ? withType(issue.input) : shown(issue.input);
  return new UsageError(
    code ?? 'E_OPTION',
    `${place === '' ? 'options' : place} must be ${wrongType ? typed(at) : expectation(at)}, not ${found}`,
  );
}

function placeOf(name: string, keys: readonly (string | number)[]): string {
  return keys.reduce<string>(
    (place, key) =>
      typeof key === 'number' ? `${place}[${key}]` : place === '' ? key : `${place}.${key}`,
    name,
  );
}

/** The allowed values of an option, for help, documentation and messages. */
export function expectation(schema: OptionSchema): string {
  const { expected, value: stands } = detailsOf(schema);
  if (expected !== undefined) return expected;
  const { type, options: choices = [] } = partsOf(schema);
  if (type === 'picklist') return alternatives(choices);
  if (type === 'string') return stands === undefined ? 'a string that is not empty' : `a ${stands}`;
  return typed(schema);
}

function typed(schema: OptionSchema): string {
  const { type } = partsOf(schema);
  const { expected } = detailsOf(schema);
  if (type === 'number') return expected?.startsWith('a ') ? expected : `an integer, ${expected}`;
  if (type === 'boolean') return 'true or false';
  if (type === 'string') return 'a string';
  if (type === 'array') return 'an array';
  return expected ?? 'an object';
}

/** `a, b or c`. */
export function alternatives(words: readonly (string | number)[]): string {
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

function withType(input: unknown): string {
  return typeof input === 'string' ? `the string ${shown(input)}` : shown(input);
}

const LONGEST = 60;

function shown(input: unknown): string {
  if (typeof input === 'string') {
    return JSON.stringify(input.length > LONGEST ? `${input.slice(0, LONGEST)}...` : input);
  }
  if (Array.isArray(input)) return 'an array';
  return typeof input === 'object' && input !== null ? 'an object' : String(input);
}

/** How to fix an unknown key. */
export function suggestion(key: string, known: readonly string[]): string {
  const distances = known.map((name) => ({ name, distance: editDistance(key, name) }));
  const [nearest] = distances.sort((a, b) => a.distance - b.distance);
  if (nearest !== undefined && nearest.distance <= Math.max(2, key.length / 3)) {
    return `did you mean ${nearest.name}?`;
  }
  return known.length === 0 ? 'there are none' : `it takes ${known.join(', ')}`;
}

/** Levenshtein distance. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (const [i, a] of [...from.slice(0, LONGEST)].entries()) {
    const next = [i + 1];
    for (const [j, b] of [...to].entries()) {
      const substituted = (row[j] ?? 0) + (a === b ? 0 : 1);
      next.push(Math.min(substituted, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
