/** The seams of src/ and of test/unit are held by the linter, and the linter's rules are those of the table. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import t from 'tap';
import { isSeamOverride, LAYERS, seamOverrides } from '../seams.ts';

const config = JSON.parse(readFileSync('biome.json', 'utf8')) as { overrides: object[] };

t.test('biome.json has exactly the rules of the table', (t) => {
  t.strictSame(config.overrides.filter(isSeamOverride), seamOverrides());
  t.end();
});

const biome = createRequire(import.meta.url).resolve('@biomejs/biome/bin/biome');

/** What the linter reports for a file of src/ with one import. */
function lint(file: string, specifier: string): string {
  const root = mkdtempSync(path.join(process.cwd(), 'dist/seams-'));
  try {
    // Without version control: the folder lies in dist/, which is ignored.
    writeFileSync(
      path.join(root, 'biome.json'),
      JSON.stringify({ root: true, linter: { rules: { recommended: false } }, ...{ overrides } }),
    );
    mkdirSync(path.join(root, path.dirname(file)), { recursive: true });
    writeFileSync(path.join(root, file), `import '${specifier}';\n`);
    const run = spawnSync(process.execPath, [biome, 'lint', file], { cwd: root, encoding: 'utf8' });
    return run.stdout + run.stderr;
  } finally {
    rmSync(root, { recursive: true });
  }
}
const overrides = config.overrides.filter(isSeamOverride);

const BITES: readonly (readonly [string, string])[] = [
  ['src/memory/planted.ts', 'koffi'],
  ['src/index.ts', 'koffi'],
  ['src/host/planted.ts', '../memory/ram.ts'],
  ['src/kvm/planted.ts', '../virtio/device.ts'],
  ['src/virtio/queue/planted.ts', '../transport/pci.ts'],
  ['src/virtio/planted.ts', './device/net.ts'],
  ['src/virtio/device/planted.ts', '../transport/pci.ts'],
  ['src/boot/planted.ts', '../virtio/device/net.ts'],
  ['src/lab/planted.ts', '../cli/run.ts'],
  ['test/unit/host/planted.ts', 'node:child_process'],
  ['test/unit/host/planted.ts', '../../support/rigs/host.ts'],
];
const PASSES: readonly (readonly [string, string])[] = [
  ['src/host/planted.ts', 'koffi'],
  ['src/memory/planted.ts', '../host/fd.ts'],
  ['src/virtio/device/planted.ts', '../device.ts'],
  ['src/virtio/device/planted.ts', '../backend/tap.ts'],
  ['src/virtio/device/planted.ts', '../queue/virtqueue.ts'],
  ['src/cli/planted.ts', '../machine/options.ts'],
  ['test/unit/host/planted.ts', '../../support/rigs/virtqueue.ts'],
  ['test/integration/host/planted.ts', 'node:child_process'],
];

for (const [file, specifier] of BITES) {
  t.match(lint(file, specifier), 'noRestrictedImports', `${file} must not import ${specifier}`);
}
for (const [file, specifier] of PASSES) {
  t.notMatch(lint(file, specifier), 'noRestrictedImports', `${file} may import ${specifier}`);
}

t.equal(
  new Set(LAYERS.map(({ folder }) => folder)).size,
  LAYERS.length,
  'each folder is listed once',
);
