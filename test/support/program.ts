/** Programs of others that tests start. */
import { readFileSync } from 'node:fs';
import { findProgram } from '../../src/guest/find-program.ts';

/**
 * Where a program is.
 * @throws Error that names the package which has it, when there is none
 */
export function programPath(name: string): string {
  const found = findProgram(name);
  if (found !== undefined) return found;
  const entries = JSON.parse(readFileSync('src/packages.json', 'utf8')) as readonly {
    readonly name: string;
    readonly probe: readonly string[];
  }[];
  const entry = entries.find(({ probe }) => probe.includes(name));
  const remedy = entry === undefined ? 'install its package' : `apt-get install ${entry.name}`;
  throw new Error(`${name} is not on this host; ${remedy}`);
}
