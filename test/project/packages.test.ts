/** Distribution packages are named in one list; what else names them agrees with it, and with Debian. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import t from 'tap';
import { findProgram } from '../../src/guest/programs.ts';
import { recipes } from '../../src/guest/recipe.ts';
import { programPath } from '../support/rigs/host.ts';

interface Entry {
  readonly name: string;
  readonly probe: readonly string[];
  readonly for: string;
  readonly partOf?: string;
}

const entries = JSON.parse(readFileSync('src/packages.json', 'utf8')) as Entry[];
const page = readFileSync('docs/install.md', 'utf8');
const rows = entries.map((entry) => `| \`${entry.name}\` | ${entry.for} |`).join('\n');

t.ok(page.includes(`| --- | --- |\n${rows}\n\n`), 'docs/install.md lists exactly the packages');

function query(...args: string[]): string {
  return spawnSync('dpkg-query', args, { encoding: 'utf8' }).stdout ?? '';
}

/** The packages that own a file; before the merge of /usr it may have been in /bin. */
function ownersOf(file: string): string[] {
  const names = [file, realpathSync(file)].flatMap((name) => [name, name.replace(/^\/usr/, '')]);
  const lines = query('--search', ...new Set(names)).split('\n');
  return [...new Set(lines.map((line) => line.split(':')[0] ?? ''))].filter((name) => name !== '');
}

/** Installed packages by name, with those that they depend on. */
const depends = new Map(
  // biome-ignore lint/suspicious/noTemplateCurlyInString: fields of dpkg-query
  query('--show', '--showformat=${Package}\t${Pre-Depends}, ${Depends}\n')
    .split('\n')
    .map((line) => {
      const [name = '', needs = ''] = line.split('\t');
      return [name, needs.split(/[,|]/).map((need) => need.trim().replace(/[ :(].*$/, ''))];
    }),
);

/** What installing a package installs. */
function closureOf(name: string): Set<string> {
  const all = new Set([name]);
  for (const each of all) for (const need of depends.get(each) ?? []) all.add(need);
  return all;
}

/** Why installing one of these packages does not bring the program, undefined when it does. */
function whyNotBrought(program: string, packages: readonly string[]): string | undefined {
  const file = findProgram(program, ['/usr/bin', '/usr/sbin', '/usr/libexec', '/usr/lib/qemu']);
  if (file === undefined) return `${program} is not installed`;
  const owners = ownersOf(file);
  if (packages.some((name) => owners.some((owner) => closureOf(name).has(owner)))) return undefined;
  return `${file} belongs to ${owners.join(', ') || 'no package'}, not to ${packages.join(' or ')}`;
}

const skip = depends.size > 1 ? false : 'this is not Debian';

t.test(
  'each package, or what it depends on, has the programs that are looked for',
  { skip },
  (t) => {
    for (const { name, probe, partOf } of entries) {
      const packages = partOf === undefined ? [name] : [name, partOf];
      for (const program of probe) {
        const why = whyNotBrought(program, packages);
        const absent = why?.endsWith('is not installed') === true ? why : false;
        t.equal(why, undefined, `${program} of ${name}`, { skip: absent });
      }
    }
    t.end();
  },
);

t.test('a package that only has a similar name is found out', { skip }, (t) => {
  t.match(whyNotBrought('dpkg-deb', ['coreutils']), /belongs to dpkg, not to coreutils/);
  t.equal(whyNotBrought('dpkg-deb', ['dpkg']), undefined);
  t.match(whyNotBrought('no-such-program', ['dpkg']), /is not installed/);
  t.end();
});

t.test(
  'programs that go into guests are in the packages that are installed for them',
  { skip },
  (t) => {
    for (const { programs } of Object.values(recipes)) {
      for (const [program, name] of Object.entries(programs)) {
        const why = whyNotBrought(program, [name]);
        const absent = why?.endsWith('is not installed') === true ? why : false;
        t.equal(why, undefined, `${program} of ${name}`, { skip: absent });
      }
    }
    t.end();
  },
);

t.test('a test whose program is missing names the package to install', (t) => {
  t.equal(programPath('node'), findProgram('node'));
  t.throws(() => programPath('no-such-program'), {
    message: 'no-such-program is not on this host; install its package',
  });
  const started = /(?<![.\w])spawn\((?!\s*(process\.execPath|programPath\(|agent))/;
  const files = readdirSync('test', { recursive: true, encoding: 'utf8' });
  const blind = files
    .filter((name) => name.endsWith('.test.ts'))
    .filter((name) => started.test(readFileSync(`test/${name}`, 'utf8')));
  t.strictSame(blind, [], 'each spawn of a test goes through it');
  t.end();
});
