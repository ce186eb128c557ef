/** Where nodevmm itself lies: files of the package are found from here, and the lab must see it. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Undefined in a CommonJS bundle of another program's, which `surroundings.ts` refuses. */
const own: string | undefined = import.meta.url;

/** The folder of package.json. This module runs from dist/src/host, or from dist/bundle/bin. */
export const packageFolder =
  own === undefined ? '' : fileURLToPath(new URL('../../..', own)).replace(/\/$/, '');

/** What package.json says of the package. */
export function packageManifest(): {
  readonly name: string;
  readonly version: string;
  readonly description: string;
} {
  return JSON.parse(readFileSync(`${packageFolder}/package.json`, 'utf8'));
}

/**
 * The folder that holds the package with its dependencies and the files of its user: our
 * checkout, the project that it is installed in, or node_modules where that belongs to no project.
 * @param folder the package's
 * @param exists whether there is such a file
 */
export function projectFolder(
  folder = packageFolder,
  exists: (path: string) => boolean = existsSync,
): string {
  // The outermost: pnpm keeps packages in a node_modules inside another one.
  const [project = '', ...inside] = folder.split('/node_modules/');
  if (inside.length === 0) return folder;
  return exists(`${project}/package.json`) ? project : `${project}/node_modules`;
}
