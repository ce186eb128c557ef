/** The guest agent's executable, compiled from guests/agent with the host's C compiler, cached by its source. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, contentHash, publishFolder } from './cache.ts';
import { run } from './programs.ts';

/** The folder guests/ of the package. This module runs from dist/src/guest. */
export const guestsFolder = fileURLToPath(new URL('../../../guests/', import.meta.url));

/** The agent's sources. */
export const agentFolder = join(guestsFolder, 'agent');

const FLAGS = ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-s', '-Wl,--build-id=none'];

/** @returns path of the executable. @throws UsageError without a C compiler and static libc */
export async function agentBinary(): Promise<string> {
  const folder = agentFolder;
  const names = readdirSync(folder).sort();
  const sources = names.map((name) => readFileSync(join(folder, name)));
  const target = cacheFolder('agent', contentHash([...FLAGS, ...sources]).slice(0, 16));
  const binary = join(target, 'nodevmm-agent');
  if (existsSync(binary)) return binary;
  const units = names.filter((name) => name.endsWith('.c')).map((name) => join(folder, name));
  await publishFolder(target, async (built) => {
    await run(
      ['gcc', ...FLAGS, '-o', join(built, 'nodevmm-agent'), ...units],
      'apt-get install gcc libc6-dev',
    );
  });
  return binary;
}
