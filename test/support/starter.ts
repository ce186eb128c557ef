/** What `nodevmm device new` writes, as a second pair beside the example in one guest. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { writeStarter } from '../../src/cli/device.ts';

/** Writes a starter whose device ID is its own. @returns its folder */
export function makeStarter(name: string, parent: string): string {
  const folder = path.join(parent, name);
  writeStarter(name, folder);
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const at = path.join(folder, file);
    if (!statSync(at).isFile()) continue;
    const text = readFileSync(at, 'utf8');
    writeFileSync(at, text.replace(/(_ID|deviceId:) 42\b/g, '$1 44'));
  }
  return folder;
}
