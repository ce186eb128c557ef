/** A project that uses the checkout, and programs that run in it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { testFolder } from './files.ts';

/** Vitest's program, from a project's folder. */
export const VITEST = 'node_modules/vitest/vitest.mjs';

/** Makes a folder that goes when the test ends, where nodevmm, Vitest, and esbuild are installed. */
export function testProject(t: Parameters<typeof testFolder>[0]): string {
  const folder = testFolder(t);
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  symlinkSync(packageFolder, join(modules, 'nodevmm'));
  for (const name of ['esbuild', 'vitest']) {
    symlinkSync(join(packageFolder, 'node_modules', name), join(modules, name));
  }
  return folder;
}

/** How a program ended. */
export interface ProgramRun {
  readonly status: number;
  readonly output: string;
}

/**
 * Runs Node in a project's folder.
 * @param show gets the output as it comes
 */
export async function runNode(
  folder: string,
  argv: readonly string[],
  show: (text: string) => void = () => {},
): Promise<ProgramRun> {
  // The runner of these tests would take the output of Node's for its own.
  const { NODE_TEST_CONTEXT: _, FORCE_COLOR: __, ...env } = process.env;
  const child = spawn(process.execPath, argv, { cwd: folder, env: { ...env, NO_COLOR: '1' } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      show(text.trimEnd());
    });
  }
  const [status] = (await once(child, 'close')) as [number | null];
  return { status: status ?? 1, output };
}
