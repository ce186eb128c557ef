/** The command line of `npm run bench`. */
import { parseArgs } from 'node:util';
import { UsageError } from '../src/host/errors.ts';

/** What was asked for. */
export interface BenchOptions {
  /** Names of groups and programs; empty: all groups. */
  readonly names: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  /** Substrings of nodevmm's rows that are wanted; empty: all. QEMU's rows are always measured. */
  readonly subjects: readonly string[];
  readonly folder: string | undefined;
  /** File for the JSON report; `-` is standard output, which then holds nothing else. */
  readonly json: string | undefined;
  readonly markdown: boolean;
  readonly profile: boolean;
  /** Never take the lab. */
  readonly noLab: boolean;
  readonly help: boolean;
}

/** @param known names that may be asked for @throws UsageError */
export function parseBenchOptions(args: readonly string[], known: readonly string[]): BenchOptions {
  const { values, positionals } = parse(args);
  const names = [...positionals, ...(values.only ?? [])].flatMap((text) => text.split(','));
  for (const name of names) {
    if (name !== 'all' && !known.includes(name)) {
      throw new UsageError('E_OPTION', `no benchmark ${name}; there are ${known.join(', ')}`);
    }
  }
  return {
    names: names.includes('all') ? [] : names,
    rounds: count('rounds', values.rounds ?? '5'),
    seconds: count('seconds', values.seconds ?? '5'),
    subjects: (values.subjects ?? []).flatMap((text) => text.split(',')),
    folder: values.folder,
    json: values.json,
    markdown: values.markdown ?? false,
    profile: values.profile ?? false,
    noLab: values['no-lab'] ?? false,
    help: values.help ?? false,
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        only: { type: 'string', multiple: true },
        rounds: { type: 'string' },
        seconds: { type: 'string' },
        subjects: { type: 'string', multiple: true },
        folder: { type: 'string' },
        json: { type: 'string' },
        markdown: { type: 'boolean' },
        profile: { type: 'boolean' },
        'no-lab': { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw new UsageError('E_OPTION', `${(error as Error).message.split('\n')[0]}; see --help`);
  }
}

function count(name: string, text: string): number {
  if (/^[1-9][0-9]{0,3}$/.test(text)) return Number(text);
  throw new UsageError('E_OPTION', `--${name} takes a number from 1 to 9999, not ${text}`);
}
