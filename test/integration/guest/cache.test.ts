/** How things get into the cache. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { cacheFolder, contentHash, publishFolder } from '../../../src/guest/cache.ts';
import { compareVersions } from '../../../src/guest/debian.ts';
import { run } from '../../../src/guest/programs.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);

const write = (text: string) => (into: string) => writeFileSync(join(into, 'file'), text);
const read = (name: string): string => readFileSync(join(folder, name, 'file'), 'utf8');

t.test('a folder appears whole or not at all', async (t) => {
  const target = join(folder, 'failed');
  const failing = publishFolder(target, (into) => {
    t.notOk(existsSync(target));
    write('half')(into);
    throw new Error('no more');
  });
  await t.rejects(failing, { message: 'no more' });
  t.same(readdirSync(folder), [], 'nothing is left behind');
});

t.test('the first to publish wins, unless it is to be replaced', async (t) => {
  const target = join(folder, 'kept');
  await publishFolder(target, write('first'));
  await publishFolder(target, write('second'));
  t.equal(read('kept'), 'first');
  await publishFolder(target, write('third'), true);
  t.equal(read('kept'), 'third');
  t.same(readdirSync(folder), ['kept']);
});

t.test('the cache is in XDG_CACHE_HOME', async (t) => {
  const before = process.env.XDG_CACHE_HOME;
  t.teardown(() => {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  });
  process.env.XDG_CACHE_HOME = '/somewhere';
  t.equal(cacheFolder(), '/somewhere/nodevmm');
  process.env.XDG_CACHE_HOME = '';
  t.match(cacheFolder(), /\.cache\/nodevmm$/);
});

t.test('no two lists of parts hash alike, and versions compare by number', async (t) => {
  t.not(contentHash(['ab', 'c']), contentHash(['a', 'bc']));
  t.equal(contentHash(['a', Buffer.from('b')]), contentHash([Buffer.from('a'), 'b']));
  t.same(['6.12.48', '6.12.9', '6.12.117'].sort(compareVersions), [
    '6.12.9',
    '6.12.48',
    '6.12.117',
  ]);
});

t.test('a tool that fails or is missing is an error with its words and the remedy', async (t) => {
  t.equal((await run(['echo', 'hi'], 'never')).toString(), 'hi\n');
  await t.rejects(run(['sh', '-c', 'echo broken >&2; exit 4'], 'mend it'), {
    code: 'E_TOOL',
    message: /status 4.*broken; mend it/,
  });
  await t.rejects(run(['nodevmm-no-such-tool'], 'install it'), {
    message: 'cannot run nodevmm-no-such-tool: it is not installed; install it',
  });
});
