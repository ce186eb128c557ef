/** Kernel modules of one's own, compiled for a guest's kernel; the results stay in the cache. */
import { copyFileSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { messageOf, UsageError } from '../host/errors.ts';
import { cacheFolder, contentHash, publishFolder } from './cache.ts';
import { findProgram } from './find-program.ts';
import type { Progress } from './kernel.ts';
import { kernelCompiler, prepareHeaders } from './kernel-headers.ts';
import { run } from './run.ts';

const SOURCES = /^(Kbuild|Makefile)$|\.[chS]$/;

/**
 * Compiles a folder with a Kbuild file, unless it was compiled before.
 * @param folder its sources; nothing is written there
 * @returns paths of the .ko files
 * @throws UsageError with the compiler's first complaint
 */
export async function buildModules(
  folder: string,
  kernelVersion: string,
  progress: Progress = () => {},
): Promise<string[]> {
  const source = resolve(folder);
  const names = existsSync(source) ? readdirSync(source).filter((name) => SOURCES.test(name)) : [];
  if (!names.includes('Kbuild') && !names.includes('Makefile')) {
    throw new UsageError(
      'E_MODULE',
      `${folder} has no Kbuild; name a folder with a module's sources`,
    );
  }
  const build = await prepareHeaders(kernelVersion, progress);
  const contents = names.sort().flatMap((name) => [name, readFileSync(join(source, name))]);
  const hash = contentHash([kernelVersion, ...contents]).slice(0, 16);
  const target = cacheFolder('modules', `${basename(source)}-${hash}`);
  if (!existsSync(target)) {
    progress(`${folder}: compiling`, 0.7);
    await publishFolder(target, async (into) => {
      for (const name of names) copyFileSync(join(source, name), join(into, name));
      await compile(build, into, source);
    });
  }
  const modules = readdirSync(target).filter((name) => name.endsWith('.ko'));
  if (modules.length > 0) return modules.map((name) => join(target, name));
  throw new UsageError('E_MODULE', `${folder} builds no module; its Kbuild needs obj-m := NAME.o`);
}

/** @param source what the messages are to name in the place of `into` */
async function compile(build: string, into: string, source: string): Promise<void> {
  const compiler = kernelCompiler(build);
  // Another version warns, and mostly works.
  const fits = compiler === undefined || findProgram(`x86_64-linux-gnu-${compiler}`) !== undefined;
  const choice = fits ? [] : ['CC=gcc'];
  try {
    await run(
      ['make', '--silent', '-C', build, `M=${into}`, ...choice, 'modules'],
      'apt-get install build-essential when the compiler is missing',
    );
  } catch (error) {
    const text = messageOf(error).replaceAll(into, source);
    throw new UsageError('E_MODULE', text, { cause: error });
  }
}
