/** The command line of `nodevmm bench` and `npm run bench`. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { UsageError } from '../src/host/errors.ts';
import type { Wanted } from './subjects/subject.ts';

/** A requested measurement. */
export interface BenchOptions extends Wanted {
  /** Names of groups. */
  readonly names: readonly string[];
  /** As typed. */
  readonly command: string;
  /** Words of the measures to take; empty: all. */
  readonly measures: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  /** How many times to repeat all of it, each time with new guests. */
  readonly repeat: number;
  readonly quick: boolean;
  readonly folder?: string;
  /** Devices of the host that rows may pass to their guests: `ADDRESS=INTERFACE`. */
  readonly vfioNets: readonly string[];
  /** `ADDRESS`, and the file of one that stays the host's. */
  readonly vfioDisks: readonly string[];
  /** File for the JSON report. */
  readonly json?: string;
  /** File for the page. */
  readonly html?: string;
  /** Use the lab where it is needed. */
  readonly lab: boolean;
  /** Write events to standard output instead of a report: the mode of a run in the lab. */
  readonly stream: boolean;
  /** Measures that need not be taken again. */
  readonly measured: readonly string[];
  /** Another checkout, built, that is measured in turns with this one. */
  readonly against?: string;
}

/** Something that can be named. */
export interface Named {
  readonly name: string;
  readonly summary: string;
  /** Not part of `all`. */
  readonly named?: true;
}

const EXAMPLES = `
Examples:
  nodevmm bench net                         nodevmm against QEMU on this host, with bars
  nodevmm bench net --quick --html net.html a first look, as a page with bars
  nodevmm bench net --variants              also what single settings are worth
  nodevmm bench net --subjects 'nodevmm,QEMU q35' --repeat 5
  nodevmm bench datapaths --html all.html   all that serves a virtio device, in one picture
  nodevmm bench all --json before.json      everything, to keep
  nodevmm bench compare before.json after.json
  nodevmm bench exits device queue-walk --against ../main    two checkouts, in turns

A row is selected by its name, or else by a part of it. Where this host's KVM cannot run Linux, the
groups with guests run in the lab, an emulated PC (docs/lab.md): compare ratios only.
docs/benchmarks.md explains what each column means and how it is measured.`;

/**
 * The command, which throws its errors.
 * @param args what it will parse
 * @param run gets the measurement that is requested
 */
export function benchCommand(
  args: readonly string[],
  groups: readonly Named[],
  run: (options: BenchOptions) => Promise<void>,
): Command {
  const list = (some: readonly Named[]): string =>
    some.map(({ name, summary }) => `  ${name.padEnd(14)} ${summary}`).join('\n');
  const all = groups.filter(({ named }) => named === undefined);
  const others = groups.filter(({ named }) => named !== undefined);
  const typed = args.map((arg) => (/[\s']/.test(arg) ? `'${arg}'` : arg));
  return new Command('nodevmm bench')
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .description('measure nodevmm against QEMU, in tables with bars, JSON and a page')
    .argument('[group...]')
    .addOption(
      new Option('--quick', 'fewer measures, 2 rounds of 1 s')
        .default(false)
        .implies({ rounds: 2, seconds: 1 }),
    )
    .option('--rounds <n>', 'samples of each row, after a warm-up', count, 4)
    .option('--seconds <n>', 'length of a sample of throughput', count, 2)
    .option('--repeat <n>', 'all of it N times, each time with other guests, pooled', count, 1)
    .option('--subjects <names>', 'only these rows, by name or part of a name', split, [])
    .option('--measures <words>', "only these: 'TCP 4', 'source 1500,echo 1500'", split, [])
    .option('--variants', 'also rows with single settings changed', false)
    .option('--json <file>', 'write all samples, with the host, for compare')
    .option('--html <file>', 'write one page with bars, which needs nothing else')
    .option('--folder <path>', 'where disks on a real file system are (default: temporary folder)')
    .option(
      '--vfio-nets <cards>',
      'network cards to pass to guests, each wired to an interface of the host: ADDRESS=INTERFACE,...',
      split,
      [],
    )
    .option(
      '--vfio-disks <disks>',
      'NVMe disks to pass to guests, and one that the host keeps for the other rows: ADDRESS,...,/dev/nvme2n1',
      split,
      [],
    )
    .option('--against <checkout>', 'compare with another built checkout, measured in turns')
    .option('--no-lab', 'never use the lab')
    .addOption(new Option('--stream').default(false).hideHelp())
    .addOption(new Option('--measured <name>').default([]).argParser(gather).hideHelp())
    .addHelpText('after', `\nGroups (default: all):\n${list(all)}`)
    .addHelpText('after', `Only when named:\n${list(others)}\n${EXAMPLES}`)
    .action(async (positional: string[], flags: Omit<BenchOptions, 'names' | 'command'>) => {
      const command = ['nodevmm bench', ...typed].join(' ');
      await run({ ...flags, command, names: namesOf(positional, groups, all) });
    });
}

function namesOf(
  positional: readonly string[],
  groups: readonly Named[],
  all: readonly Named[],
): string[] {
  const names = positional.flatMap((text) => text.split(','));
  const known = groups.map(({ name }) => name);
  const wrong = names.find((name) => name !== 'all' && !known.includes(name));
  if (wrong !== undefined) {
    throw new UsageError('E_OPTION', `no benchmark ${wrong}`, `there are ${known.join(', ')}`);
  }
  const isAll = names.length === 0 || names.includes('all');
  return isAll ? all.map(({ name }) => name) : names;
}

function count(text: string): number {
  if (/^[1-9][0-9]{0,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It takes a number from 1 to 9999.');
}

function split(text: string, before: readonly string[]): string[] {
  const parts = text.split(',').map((part) => part.trim());
  return [...before, ...parts.filter((part) => part !== '')];
}

function gather(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

/** True when a measure's name contains all words of one of the texts, or there are none. */
export function isNamed(measure: string, texts: readonly string[]): boolean {
  const words = measure.toLowerCase().split(/[ ,:]+/);
  const has = (text: string): boolean =>
    text
      .toLowerCase()
      .split(/ +/)
      .every((word) => words.includes(word));
  return texts.length === 0 || texts.some(has);
}

/** The equivalent command line for another place, except its groups. */
export function argumentsOf(options: BenchOptions): string[] {
  const { rounds, seconds, quick, variants, subjects, measures, vfioNets, vfioDisks } = options;
  return [
    ...['--rounds', String(rounds), '--seconds', String(seconds)],
    ...(quick ? ['--quick'] : []),
    ...(variants ? ['--variants'] : []),
    ...subjects.flatMap((subject) => ['--subjects', subject]),
    ...measures.flatMap((measure) => ['--measures', measure]),
    ...vfioNets.flatMap((card) => ['--vfio-nets', card]),
    ...vfioDisks.flatMap((disk) => ['--vfio-disks', disk]),
  ];
}
