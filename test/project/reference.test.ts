/** docs/reference is what `npm run docs` makes of the public API's comments. */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { testFolder } from '../support/rigs/files.ts';

t.setTimeout(120_000);

const filesBelow = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((name) => statSync(join(folder, name)).isFile())
      .sort()
      .map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
  );

t.test('the reference is current: npm run docs', async (t) => {
  const folder = testFolder(t);
  await promisify(execFile)('node_modules/.bin/typedoc', ['--out', folder]);
  const made = filesBelow(folder);
  const committed = filesBelow('docs/reference');
  t.same(Object.keys(committed), Object.keys(made));
  const stale = Object.keys(made).filter((name) => made[name] !== committed[name]);
  t.same(stale, []);
  for (const member of ['VirtualMachine', 'MachineOptions', 'connectMachine', 'buildGuest']) {
    t.match(made['nodevmm.md'], new RegExp(`^### .*\\b${member}\\b`, 'm'));
  }
});
