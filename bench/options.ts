/** The command line of `nodevmm bench` and `npm run bench`. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { UsageError } from '../src/host/errors.ts';
import type { Wanted } from './subjects/selection.ts';

/** A requested measurement. */
export interface BenchOptions extends Wanted {
  /** Names of groups and programs; empty: all groups. */
  readonly names: readonly string[];
  /** Words of the measures to take; empty: all. */
  readonly measures: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  /** How many times to repeat all of it, each time with new guests. */
  readonly repeat: number;
  readonly quick: boolean;
  readonly folder: string | undefined;
  /** File for the JSON report. */
  readonly json: string | undefined;
  /** File for the page. */
  readonly html: string | undefined;
  readonly markdown: boolean;
  readonly profile: boolean;
  /** Use the lab where it is needed. */
  readonly lab: boolean;
  /** Write events to standard output instead of a report: the mode of a run in the lab. */
  readonly stream: boolean;
  /** Measures that need not be taken again. */
  readonly measured: readonly string[];
  /** Another checkout, built, that is measured in turns with this one. */
  readonly against: string | undefined;
  /** As typed. */
  readonly command: string;
}

/** A parsed request. */
export type Request =
  | { readonly kind: 'measure'; readonly options: BenchOptions }
  | { readonly kind: 'compare'; readonly before: string; readonly after: string }
  | { readonly kind: 'summary'; readonly reports: readonly string[]; readonly write: boolean }
  /** commander has printed it. */
  | { readonly kind: 'help' };

/** Something that can be named. */
export interface Named {
  readonly name: string;
  readonly summary: string;
}

const ROUNDS = 4;
const SECONDS = 2;
const QUICK_ROUNDS = 2;
const QUICK_SECONDS = 1;

const EXAMPLES = `
Examples:
  nodevmm bench net                         nodevmm against QEMU on this host, with bars
  nodevmm bench net --quick --html net.html a first look, as a page with charts
  nodevmm bench net --variants --profile    also what single settings are worth, and where time goes
  nodevmm bench net --subjects 'nodevmm,QEMU q35' --repeat 5
  nodevmm bench all --json before.json      everything, to keep
  nodevmm bench compare before.json after.json
  nodevmm bench exits device queue-walk --against ../main    two checkouts, in turns

A row is selected by its name, or else by a part of it. Where this host's KVM cannot run Linux, the
groups with guests run in the lab, an emulated PC (docs/lab.md): compare ratios only.
docs/benchmarks.md tells what each column means and how it is measured.`;

interface Flags {
  readonly rounds?: number;
  readonly seconds?: number;
  readonly repeat?: number;
  readonly quick?: boolean;
  readonly subjects?: readonly string[];
  readonly variants?: boolean;
  readonly measures?: readonly string[];
  readonly folder?: string;
  readonly json?: string;
  readonly html?: string;
  readonly markdown?: boolean;
  readonly profile?: boolean;
  readonly lab: boolean;
  readonly stream?: boolean;
  readonly measured?: readonly string[];
  readonly against?: string;
}

/**
 * Parses a command line; --help prints.
 * @param groups those that `all` means
 * @param programs what else may be named
 * @throws UsageError
 */
export function parseRequest(
  args: readonly string[],
  groups: readonly Named[],
  programs: readonly Named[],
): Request {
  let request: Request = { kind: 'help' };
  const command = benchCommand(groups, programs).action((names: string[], flags: Flags) => {
    const known = [...groups, ...programs].map(({ name }) => name);
    const typed = args.map((arg) => (/[\s']/.test(arg) ? `'${arg}'` : arg));
    const text = ['nodevmm bench', ...typed].join(' ');
    request = { kind: 'measure', options: complete(names, flags, known, text) };
  });
  command
    .command('compare')
    .description('what changed from one --json file to another, and whether by more than noise')
    .argument('<before.json>')
    .argument('<after.json>')
    .action((before: string, after: string) => {
      request = { kind: 'compare', before, after };
    });
  command
    .command('summary')
    .description('what bench/results has, or --json files; --write keeps it and updates the docs')
    .argument('[report.json...]')
    .option('--write', 'into bench/results and docs/benchmarks.md of this checkout')
    .action((reports: string[], { write = false }: { write?: boolean }) => {
      request = { kind: 'summary', reports, write };
    });
  try {
    for (const one of [command, ...command.commands]) quiet(one);
    command.parse([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: 'help' };
    const text = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
    throw new UsageError('E_OPTION', `${text}; see nodevmm bench --help`);
  }
  return request;
}

/** True when a measure's name contains all words of one of the texts, or there are none. */
export function isNamed(measure: string, texts: readonly string[]): boolean {
  const words = measure.toLowerCase().split(/[ ,:]+/);
  return (
    texts.length === 0 ||
    texts.some((text) => {
      const asked = text.toLowerCase().split(/ +/);
      return asked.every((word) => words.includes(word));
    })
  );
}

/** Errors are thrown, not printed. */
function quiet(command: Command): void {
  command.exitOverride().configureOutput({ outputError: () => {} });
}

function benchCommand(groups: readonly Named[], programs: readonly Named[]): Command {
  const list = (entries: readonly Named[]): string =>
    entries.map(({ name, summary }) => `  ${name.padEnd(12)} ${summary}`).join('\n');
  const split = (text: string, before: readonly string[] = []): string[] => [
    ...before,
    ...text
      .split(',')
      .map((part) => part.trim())
      .filter((part) => part !== ''),
  ];
  const gather = (text: string, before: readonly string[] = []): string[] => [...before, text];
  return new Command('nodevmm bench')
    .description('measure nodevmm against QEMU, in tables with bars, JSON and a page with charts')
    .argument('[group...]')
    .option('--quick', `fewer measures, ${QUICK_ROUNDS} rounds of ${QUICK_SECONDS} s`)
    .option('--rounds <n>', `samples of each row (default: ${ROUNDS}), after a warm-up`, count)
    .option('--seconds <n>', `length of a sample of throughput (default: ${SECONDS})`, count)
    .option('--repeat <n>', 'all of it so often, each time with other guests, in one report', count)
    .option(
      '--subjects <names>',
      'only these rows, by name or part of a name; again for more',
      split,
    )
    .option(
      '--measures <words>',
      "only these: 'TCP 4', 'source 1500,echo 1500'; again for more",
      split,
    )
    .option('--variants', 'also rows with single settings changed')
    .option('--json <file>', 'write all samples, with the host, for compare')
    .option('--html <file>', 'write one page with charts, which needs nothing else')
    .option('--markdown', 'print Markdown tables in place of bars')
    .option('--profile', 'also show where time went: every column, CPU by thread, exits')
    .option('--folder <path>', 'where disks on a real file system lie (default: temporary folder)')
    .option('--against <checkout>', 'compare with another built checkout, measured in turns')
    .option('--no-lab', 'never take the lab')
    .addOption(new Option('--stream').hideHelp())
    .addOption(new Option('--measured <measure>').argParser(gather).hideHelp())
    .addHelpText(
      'after',
      `
Groups (default: all):
${list(groups)}
Without guests, only when named:
${list(programs)}
${EXAMPLES}`,
    );
}

function complete(
  positional: readonly string[],
  flags: Flags,
  known: readonly string[],
  command: string,
): BenchOptions {
  const names = positional.flatMap((text) => text.split(','));
  for (const name of names) {
    if (name !== 'all' && !known.includes(name)) {
      throw new UsageError('E_OPTION', `no benchmark ${name}; there are ${known.join(', ')}`);
    }
  }
  const quick = flags.quick === true;
  return {
    names: names.includes('all') ? [] : names,
    measures: flags.measures ?? [],
    rounds: flags.rounds ?? (quick ? QUICK_ROUNDS : ROUNDS),
    seconds: flags.seconds ?? (quick ? QUICK_SECONDS : SECONDS),
    repeat: flags.repeat ?? 1,
    quick,
    subjects: flags.subjects ?? [],
    variants: flags.variants === true,
    folder: flags.folder,
    json: flags.json,
    html: flags.html,
    markdown: flags.markdown === true,
    profile: flags.profile === true,
    lab: flags.lab,
    stream: flags.stream === true,
    measured: flags.measured ?? [],
    against: flags.against,
    command,
  };
}

/** The equivalent command line for another place. */
export function argumentsOf(options: BenchOptions): string[] {
  const { rounds, seconds, quick, variants, subjects, measures } = options;
  return [
    ...['--rounds', String(rounds), '--seconds', String(seconds)],
    ...(quick ? ['--quick'] : []),
    ...(variants ? ['--variants'] : []),
    ...subjects.flatMap((subject) => ['--subjects', subject]),
    ...measures.flatMap((measure) => ['--measures', measure]),
  ];
}

function count(text: string): number {
  if (/^[1-9][0-9]{0,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It takes a number from 1 to 9999.');
}
