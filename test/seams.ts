/**
 * The seams of src/ as one table, and the Biome rules made from it. A changed table goes into
 * biome.json with `node dist/test/seams.js --write`; a unit test holds the two together.
 */
import { readFileSync, writeFileSync } from 'node:fs';

/** A folder of src/, `*` for the files right in it only. */
interface Layer {
  readonly folder: string;
  /** Folders with the same number may import each other, unless they are `alone`. */
  readonly rank: number;
  /** Must not import its neighbours of the same rank. */
  readonly alone?: boolean;
}

/** Each folder may import itself and those of a lower rank. */
export const LAYERS: readonly Layer[] = [
  { folder: 'abi', rank: 0 },
  { folder: 'host', rank: 1 },
  { folder: 'options', rank: 2 },
  { folder: 'memory', rank: 2 },
  { folder: 'state', rank: 2 },
  { folder: 'kvm', rank: 3 },
  { folder: 'bus', rank: 3 },
  { folder: 'pci', rank: 4 },
  { folder: 'platform', rank: 4 },
  { folder: 'virtio/queue', rank: 4 },
  { folder: 'virtio/*', rank: 5 },
  { folder: 'virtio/transport', rank: 6, alone: true },
  { folder: 'virtio/device', rank: 6 },
  { folder: 'virtio/device-sdk', rank: 6 },
  { folder: 'virtio/observe', rank: 6 },
  { folder: 'nic', rank: 6 },
  { folder: 'watchdog', rank: 6, alone: true },
  { folder: 'backend', rank: 6 },
  { folder: 'boot', rank: 6, alone: true },
  { folder: 'guest', rank: 6, alone: true },
  { folder: 'agent', rank: 7, alone: true },
  { folder: 'datapath', rank: 7 },
  { folder: 'vhost', rank: 7 },
  { folder: 'vhost-user', rank: 7 },
  { folder: 'vdpa', rank: 7 },
  { folder: 'vduse', rank: 7 },
  { folder: 'vfio', rank: 7 },
  { folder: 'lab', rank: 8 },
  { folder: 'machine', rank: 9 },
  { folder: 'inspect', rank: 10 },
  { folder: 'testing', rank: 10 },
  { folder: 'fixture', rank: 10 },
  { folder: 'cli', rank: 11 },
];

/** What brings a process or a peer: a test that imports one of these belongs in test/integration. */
const OUTSIDE: readonly string[] = [
  ...['node:child_process', 'node:http', 'node:net'],
  ...['agent', 'cli-run', 'frontend', 'guest', 'host', 'rng-backend'].map(
    (rig) => `**/rigs/${rig}.ts`,
  ),
  '**/vhost-user-rig.ts',
];
const UNIT =
  'test/unit holds what needs no process and no peer; this test belongs in test/integration.';

const NATIVE = 'Only src/host may use koffi or the native addon.';

/** The import patterns that name a layer from any other folder. */
function patternsOf(layer: Layer): string[] {
  // Contracts are single files: from elsewhere in src/ they are `../virtio/device.ts`.
  if (layer.folder === 'virtio/*') return ['**/virtio/*.ts'];
  const last = layer.folder.split('/').at(-1);
  return [`**/${last}/**`];
}

function mayImport(from: Layer, to: Layer): boolean {
  if (from === to) return true;
  if (to.rank !== from.rank) return to.rank < from.rank;
  return !from.alone && !to.alone;
}

function rule(layer: Layer | undefined): object {
  const forbidden = layer === undefined ? [] : LAYERS.filter((to) => !mayImport(layer, to));
  const message = `src/${layer?.folder} is below this: see docs/architecture.md, "Seams".`;
  const seams = forbidden.length === 0 ? [] : [{ group: forbidden.flatMap(patternsOf), message }];
  const native = layer?.folder === 'host' ? {} : { paths: { koffi: NATIVE } };
  const patterns = seams.length === 0 ? {} : { patterns: seams };
  return { level: 'error', options: { ...native, ...patterns } };
}

/** The `overrides` of biome.json that hold the seams. */
export function seamOverrides(): object[] {
  const layers = [undefined, ...LAYERS].filter((layer) => JSON.stringify(rule(layer)) !== '{}');
  const seams = layers.map((layer) => ({
    includes: [
      layer === undefined
        ? 'src/**'
        : `src/${layer.folder}${layer.folder.endsWith('*') ? '.ts' : '/**'}`,
    ],
    linter: { rules: { style: { noRestrictedImports: rule(layer) } } },
  }));
  const options = { patterns: [{ group: OUTSIDE, message: UNIT }] };
  const unit = { noRestrictedImports: { level: 'error', options } };
  return [...seams, { includes: ['test/unit/**'], linter: { rules: { style: unit } } }];
}

/** True for an override that this table made. */
export const isSeamOverride = (override: object): boolean =>
  JSON.stringify(override).includes('noRestrictedImports');

if (process.argv[2] === '--write') {
  const config = JSON.parse(readFileSync('biome.json', 'utf8')) as { overrides?: object[] };
  const others = (config.overrides ?? []).filter((override) => !isSeamOverride(override));
  config.overrides = [...others, ...seamOverrides()];
  writeFileSync('biome.json', JSON.stringify(config, null, 2));
}
