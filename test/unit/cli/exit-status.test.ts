/** The exit statuses that the program has are those that docs/exit-status.md documents. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import * as statuses from '../../../src/cli/exit-status.ts';
import { reportError } from '../../../src/cli/terminal/messages.ts';
import { InternalError, PeerError, UsageError } from '../../../src/host/errors.ts';

const page = readFileSync('docs/exit-status.md', 'utf8');
const documented = [...page.matchAll(/^\| (\d+) \| /gm)].map((match) => Number(match[1]));
const values = Object.values(statuses).filter((value) => typeof value === 'number');

t.strictSame(
  documented,
  values.sort((a, b) => a - b),
);
for (const value of values) t.match(statuses.EXIT_STATUS_HELP, `\n  ${value} `, `--help: ${value}`);
t.equal(statuses.statusOf('power-off'), 0);
t.equal(statuses.statusOf('stopped'), 0);

for (const [error, status] of [
  [new UsageError('E_NAME', 'in a test: usage'), statuses.EXIT_USAGE],
  [new PeerError('E_LAB_GONE', 'in a test: lost'), statuses.EXIT_COMMAND_LOST],
  [new PeerError('E_LAB_STOPPED', 'in a test: stopped'), statuses.EXIT_COMMAND_STOPPED],
  [new InternalError('in a test'), statuses.EXIT_BUG],
] as const) {
  t.equal(reportError(error), status, error.code);
}
