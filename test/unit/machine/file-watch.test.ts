/** Files that are saved. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { FileWatch } from '../../../src/machine/user-devices/device-code.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const at = (name: string): string => join(folder, name);

t.test('a saved file is reported once, and the files to watch may change', async (t) => {
  for (const name of ['a', 'b', 'other']) writeFileSync(at(name), '1');
  let reports = 0;
  const lists = [[at('a'), at('b')], [at('a')]];
  using _watch = new FileWatch(
    [at('a')],
    async () => {
      reports++;
      return lists.shift() ?? [at('a')];
    },
    5,
  );
  const reported = async (count: number): Promise<void> => {
    // It does not keep the process alive by itself.
    while (reports < count) await delay(5);
  };
  writeFileSync(at('other'), '22');
  writeFileSync(at('a'), '22');
  await reported(1);
  writeFileSync(at('new'), '333');
  renameSync(at('new'), at('b'));
  await reported(2);
  writeFileSync(at('b'), '4444');
  rmSync(at('a'));
  await reported(3);
  t.equal(reports, 3);
});

t.test('a file saved while the files are read is reported next', async (t) => {
  writeFileSync(at('c'), '1');
  let reports = 0;
  const done = new Promise<void>((resolve) => {
    const watch = new FileWatch(
      [at('c')],
      async () => {
        if (++reports === 1) writeFileSync(at('c'), '333');
        else resolve();
        return [at('c')];
      },
      5,
    );
    t.teardown(() => watch[Symbol.dispose]());
  });
  writeFileSync(at('c'), '22');
  const alive = setInterval(() => {}, 1000);
  await done;
  clearInterval(alive);
  t.equal(reports, 2);
});
