/** Files that are saved. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { FileWatch } from '../../../src/machine/user-devices/device-code.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const at = (name: string): string => join(folder, name);

t.test('what is saved is told once, and the files to watch may change', async (t) => {
  for (const name of ['a', 'b', 'other']) writeFileSync(at(name), '1');
  let told = 0;
  const lists = [[at('a'), at('b')], [at('a')]];
  using _watch = new FileWatch(
    [at('a')],
    async () => {
      told++;
      return lists.shift() ?? [at('a')];
    },
    5,
  );
  const tells = async (count: number): Promise<void> => {
    // It does not keep the process alive by itself.
    while (told < count) await delay(5);
  };
  writeFileSync(at('other'), '22');
  writeFileSync(at('a'), '22');
  await tells(1);
  writeFileSync(at('new'), '333');
  renameSync(at('new'), at('b'));
  await tells(2);
  writeFileSync(at('b'), '4444');
  rmSync(at('a'));
  await tells(3);
  t.equal(told, 3);
});

t.test('what is saved while the files are read is told next', async (t) => {
  writeFileSync(at('c'), '1');
  let told = 0;
  const done = new Promise<void>((resolve) => {
    const watch = new FileWatch(
      [at('c')],
      async () => {
        if (++told === 1) writeFileSync(at('c'), '333');
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
  t.equal(told, 2);
});
