/** Distribution packages are named in one list; what else names them agrees with it. */
import { readFileSync } from 'node:fs';
import t from 'tap';

interface Entry {
  readonly name: string;
  readonly for: string;
}

const entries = JSON.parse(readFileSync('src/packages.json', 'utf8')) as Entry[];
const readme = readFileSync('README.md', 'utf8');
const rows = entries.map((entry) => `| \`${entry.name}\` | ${entry.for} |`).join('\n');

t.ok(readme.includes(`| --- | --- |\n${rows}\n\n`), 'README.md lists exactly the packages');
