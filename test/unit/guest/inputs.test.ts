/** Whether something must be rebuilt. */
import { rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Inputs, isUnchanged } from '../../../src/guest/cache.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const file = join(folder, 'file');

t.beforeEach(() => {
  writeFileSync(file, 'first');
  utimesSync(file, 1000, 1000);
});

t.test('files that stay as they are', async (t) => {
  const inputs = new Inputs();
  t.equal(inputs.read(file).toString(), 'first');
  inputs.see(folder);
  t.ok(isUnchanged(JSON.parse(JSON.stringify(inputs.fingerprint()))), 'also when it was stored');
});

t.test('a file that grew, a newer one, one that went, one more in a folder', async (t) => {
  const changed = (change: () => void, seen = file): boolean => {
    const inputs = new Inputs();
    inputs.see(seen);
    change();
    return !isUnchanged(inputs.fingerprint());
  };
  t.ok(changed(() => writeFileSync(file, 'longer than before')));
  t.ok(changed(() => utimesSync(file, 2000, 2000)));
  utimesSync(folder, 1000, 1000);
  t.ok(changed(() => writeFileSync(join(folder, 'other'), ''), folder));
  t.ok(changed(() => rmSync(file)));
});
