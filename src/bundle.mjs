/**
 * Bundles what was compiled into a few files: Node then loads nodevmm several times faster than
 * as a hundred modules (docs/benchmarks.md). Tests run the modules themselves, but in the lab.
 *
 *     node src/bundle.mjs                     the package
 *     node src/bundle.mjs FOLDER FILE...      nodevmm with these programs, e.g. compiled tests
 *
 * A folder lies as deep as those of dist/src, and every entry keeps its name, so that files
 * found relative to `import.meta.url` are found from here, too.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiled = (name) => path.join(root, 'dist/src', `${name}.js`);

/** Programs, workers, and the modules that queue workers import by URL. */
const ENTRIES = [
  'cli/main',
  'index',
  'testing/index',
  'fixture/node-test',
  'fixture/vitest',
  'lab/keeper',
  'machine/control/machine-host',
  'machine/user-devices/device-module',
  'machine/board/vcpu-worker',
  'datapath/queue-worker-main',
  'datapath/shadow/shadow-handler',
  'virtio/device/blk/blk',
  'virtio/device/pmem/pmem',
  'virtio/device/fs/fs',
  'virtio/device/net/net-handler',
  'virtio/device/net/net-memory-handler',
  'nic/e1000-handler',
];

/** By its file; an index by its folder: `testing`. */
const entryName = (name) =>
  name.endsWith('/index') ? path.basename(path.dirname(name)) : path.basename(name);

const [folder, ...programs] = process.argv.slice(2);

await build({
  entryPoints: {
    ...Object.fromEntries(ENTRIES.map((name) => [entryName(name), compiled(name)])),
    ...Object.fromEntries(programs.map((file) => [path.basename(file, '.js'), path.resolve(file)])),
  },
  outdir: path.resolve(root, folder ?? 'dist/bundle/bin'),
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  // They find their own files beside themselves, or are their user's.
  external: ['koffi', 'esbuild', 'vitest', 'nodevmm'],
  // What a CommonJS package among them requires.
  banner: {
    js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url ?? '/');",
  },
  // Names stay, for stack traces.
  minifyWhitespace: true,
  minifySyntax: true,
  sourcemap: true,
  sourcesContent: false,
  logLevel: 'warning',
});

/** What the page of `inspect --web` holds: for a browser, from source. */
if (folder === undefined) {
  await build({
    entryPoints: ['client.ts', 'style.css'].map((name) =>
      path.join(root, 'src/inspect/browser', name),
    ),
    outdir: path.join(root, 'dist/bundle/browser'),
    format: 'iife',
    target: 'es2023',
    charset: 'utf8',
    logLevel: 'warning',
  });
}
