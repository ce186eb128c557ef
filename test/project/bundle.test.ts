/** What a module names by a URL of its own folder is in the bundle, too: threads are started by it. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';

const bundle = readFileSync('src/bundle.mjs', 'utf8');
const named = new Map<string, string>();
for (const file of readdirSync('src', { recursive: true, encoding: 'utf8' })) {
  if (!file.endsWith('.ts')) continue;
  const text = readFileSync(path.join('src', file), 'utf8');
  for (const [, name = ''] of text.matchAll(/new URL\('\.\/([\w-]+)\.js', import\.meta\.url\)/g)) {
    named.set(path.join(path.dirname(file), name), file);
  }
}

t.ok(named.size >= 6, `${named.size} modules are named so`);
for (const [module, by] of named) t.ok(bundle.includes(`'${module}'`), `${module}, by ${by}`);
