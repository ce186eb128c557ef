/**
 * Bundles what was compiled into a few files: Node then loads nodevmm several times faster than
 * as a hundred modules (docs/benchmarks.md). Tests run the modules themselves.
 *
 * The folder lies as deep as those of dist/src, and every entry keeps its name, so that files
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
  'lab/keeper',
  'machine/user-devices/device-module',
  'machine/board/vcpu-worker',
  'datapath/queue-worker-main',
  'virtio/device/blk/blk',
  'virtio/device/fs/fs',
  'virtio/device/net/net-handler',
  'virtio/device/net/net-memory-handler',
  'nic/e1000-handler',
];

/** By its file; an index by its folder: `testing`. */
const entryName = (name) =>
  name.endsWith('/index') ? path.basename(path.dirname(name)) : path.basename(name);

await build({
  entryPoints: Object.fromEntries(ENTRIES.map((name) => [entryName(name), compiled(name)])),
  outdir: path.join(root, 'dist/bundle/bin'),
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  // Finds its own binary beside itself.
  external: ['koffi', 'esbuild'],
  // What a CommonJS package among them requires.
  banner: {
    js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);",
  },
  sourcemap: true,
  sourcesContent: false,
  logLevel: 'warning',
});

/** What the page of `inspect --web` holds: for a browser, from source. */
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
