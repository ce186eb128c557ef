/** Which test files there are, in which group, and how each group runs. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** How the files of some folders under test/ are run. */
export interface Group {
  readonly name: string;
  readonly folders: readonly string[];
  /** Files at a time. */
  readonly parallel: number;
  /** What one file may take before it counts as hung. */
  readonly timeoutSeconds: number;
  /** How long it may write nothing before it counts as hung. Default: as long as it may take. */
  readonly silenceSeconds?: number;
  /** Nothing of it may be skipped in CI. */
  readonly required: boolean;
  /** Its files run Linux guests: where this host's KVM cannot, they run in the lab. */
  readonly linuxGuests?: boolean;
  /** Slow, and rarely breaks: runs only when it is named. */
  readonly onDemand?: boolean;
}

export const GROUPS: readonly Group[] = [
  { name: 'unit', folders: ['unit'], parallel: 2, timeoutSeconds: 180, required: false },
  {
    name: 'integration',
    folders: ['integration', 'fuzz'],
    parallel: 2,
    timeoutSeconds: 180,
    required: false,
  },
  { name: 'project', folders: ['project'], parallel: 2, timeoutSeconds: 180, required: false },
  { name: 'kvm', folders: ['kvm'], parallel: 2, timeoutSeconds: 180, required: false },
  { name: 'lab', folders: ['lab'], parallel: 2, timeoutSeconds: 1200, required: true },
  {
    name: 'guest',
    folders: ['guest'],
    parallel: 1,
    timeoutSeconds: 1500,
    silenceSeconds: 300,
    required: true,
    linuxGuests: true,
  },
  {
    name: 'long-lab',
    folders: ['long/lab'],
    parallel: 1,
    timeoutSeconds: 3600,
    required: true,
    onDemand: true,
  },
  {
    name: 'long-guest',
    folders: ['long/guest'],
    parallel: 1,
    timeoutSeconds: 3600,
    silenceSeconds: 900,
    required: true,
    linuxGuests: true,
    onDemand: true,
  },
];

/** A test file, by its paths from the root of the checkout. */
export interface TestFile {
  readonly source: string;
  readonly compiled: string;
}

function* walk(folder: string): Generator<string> {
  if (!existsSync(folder)) return;
  const entries = readdirSync(folder, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(name);
    else yield name;
  }
}

/** The sources of all files of a group. */
function sourcesOf(group: Group): string[] {
  return group.folders.flatMap((folder) => [...walk(path.join('test', folder))]);
}

/**
 * The files of a group that a filter selects, in a fixed order.
 * @param filters groups' names, folders or files, in source or compiled form; none selects all but
 *   the group that runs on demand
 */
export function filesOf(group: Group, filters: readonly string[]): TestFile[] {
  const wanted = filters.map((filter) =>
    path
      .normalize(filter)
      .replace(/^dist\//, '')
      .replace(/\.js$/, '.ts'),
  );
  const matches = (source: string): boolean =>
    (wanted.length === 0 && group.onDemand !== true) ||
    wanted.some(
      (filter) =>
        filter === group.name ||
        source === filter ||
        source.startsWith(`${filter.replace(/\/$/, '')}/`) ||
        source.startsWith(`test/${filter}/`),
    );
  return sourcesOf(group)
    .filter((source) => source.endsWith('.test.ts') && matches(source))
    .map((source) => ({
      source,
      compiled: path.join('dist', source.replace(/\.ts$/, '.js')),
    }));
}

/** Tests that would never run: they lie in no group's folder, or their name does not end in `.test.ts`. */
export function lostTests(): string[] {
  const sources = new Set(GROUPS.flatMap(sourcesOf));
  return [...walk('test')].filter((source) =>
    source.endsWith('.test.ts')
      ? !sources.has(source)
      : sources.has(source) &&
        source.endsWith('.ts') &&
        /^import t from 'tap'/m.test(readFileSync(source, 'utf8')),
  );
}
