/**
 * What the package has beyond a checkout's build: the public API's types, free of those of other
 * packages, and the licenses of what is bundled. Part of each build: a project may install the checkout.
 */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { rollup } from 'rollup';
import { dts } from 'rollup-plugin-dts';

const root = fileURLToPath(new URL('..', import.meta.url));
const at = (name) => path.join(root, name);

/** Entries whose types share chunks. Fixtures know the public API only, which has one of its own. */
const API = 'dist/src/index.d.ts';
const TYPES = [
  {
    index: API,
    testing: 'dist/src/testing/index.d.ts',
    device: 'dist/src/machine/user-devices/device-module.d.ts',
  },
  {
    'node-test': 'dist/src/fixture/node-test.d.ts',
    vitest: 'dist/src/fixture/vitest.d.ts',
  },
];

/** dts finds the module that `declare module` augments by the extension that it has once compiled. */
const augmentations = {
  name: 'augmentations',
  transform: (code) => code.replace(/^(declare module '.*)\.ts'/gm, "$1.js'"),
};

async function writeTypes() {
  fs.rmSync(at('dist/types'), { recursive: true, force: true });
  for (const entries of TYPES) {
    const bundle = await rollup({
      input: Object.fromEntries(Object.entries(entries).map(([name, file]) => [name, at(file)])),
      plugins: [augmentations, dts({ includeExternal: ['valibot'] })],
      external: [/^node:/, 'vitest', ...('index' in entries ? [] : [at(API)])],
      // Types that two entries share need no entry of their own.
      onwarn: ({ message }) => {
        if (!message.includes('private shared type exports')) throw new Error(message);
      },
    });
    await bundle.write({
      dir: at('dist/types'),
      paths: { [at(API)]: './index.js' },
      entryFileNames: '[name].d.ts',
      chunkFileNames: 'shared-[hash].d.ts',
    });
  }
}

/** Whose code is in the bundles, by their source maps. */
function bundledPackages() {
  const folder = at('dist/bundle/bin');
  const maps = fs.readdirSync(folder).filter((name) => name.endsWith('.js.map'));
  const sources = maps.flatMap(
    (name) => JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8')).sources,
  );
  const names = sources.map((source) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(source)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined))].sort();
}

function writeLicenses() {
  const texts = bundledPackages().map((name) => {
    const folder = at(`node_modules/${name}`);
    const license = fs.readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
    if (license === undefined) throw new Error(`${name} is bundled, but has no license file`);
    const { version } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
    return `${name} ${version}\n\n${fs.readFileSync(path.join(folder, license), 'utf8').trim()}\n`;
  });
  fs.writeFileSync(at('dist/bundle/LICENSES'), texts.join('\n---\n\n'));
}

await writeTypes();
writeLicenses();
