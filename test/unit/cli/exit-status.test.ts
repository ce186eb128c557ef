/** The exit statuses that the program has are those that README.md documents. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import * as statuses from '../../../src/cli/exit-status.ts';

const readme = readFileSync('README.md', 'utf8');
const documented = [...readme.matchAll(/^\| (\d+) \| /gm)].map((match) => Number(match[1]));
const values = Object.values(statuses).filter((value) => typeof value === 'number');

t.strictSame(
  documented,
  values.sort((a, b) => a - b),
);
for (const value of values) t.match(statuses.EXIT_STATUS_HELP, `\n  ${value} `, `--help: ${value}`);
t.equal(statuses.statusOf('power-off'), 0);
t.equal(statuses.statusOf('stopped'), 0);
