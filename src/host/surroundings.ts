/**
 * Refuses to be where nodevmm cannot work: in other runtimes than Node.js, whose threads in system calls and native
 * memory it needs, and in other programs' bundles, from where its files are not found. What loads native code imports
 * it first.
 */
import { UsageError } from './errors.ts';
import { packageManifest } from './package-folder.ts';

function otherRuntime(): string | undefined {
  const { bun, deno } = process.versions;
  if (bun !== undefined) return `Bun ${bun}`;
  return 'Deno' in globalThis ? `Deno ${deno ?? ''}`.trim() : undefined;
}

const runtime = otherRuntime();
if (runtime !== undefined) {
  throw new UsageError('E_NODE', `${runtime} is not supported`, 'run nodevmm with Node.js');
}

function isBundled(): boolean {
  try {
    return packageManifest().name !== 'nodevmm';
  } catch {
    return true;
  }
}

if (isBundled()) {
  throw new UsageError(
    'E_BUNDLED',
    'nodevmm is bundled with another program, where it does not find its workers and native code',
    "leave it out of the bundle, in esbuild with external: ['nodevmm']",
  );
}
