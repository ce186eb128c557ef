/** Loads a user's device from a file in TypeScript or JavaScript. */

import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { messageOf, messageParts, UsageError } from '../../host/errors.ts';
import { TemporaryFolder } from '../../host/temporary-folder.ts';
import type { DeviceFactory, DeviceOptions } from '../../virtio/device-sdk/definition.ts';

/** The entry point. */
export type BundleEntry =
  | { readonly file: string }
  | {
      /** A module's text. */
      readonly text: string;
      /** What its imports are relative to. */
      readonly folder: string;
    };

/**
 * @param output the file to write; its source map is in it
 * @param modules files that replace modules, unbundled, by import specifier
 * @returns the files that went into it, except those of npm packages
 * @throws UsageError with file, line and reason
 */
export async function bundleModule(
  entry: BundleEntry,
  output: string,
  modules: Readonly<Record<string, string>>,
): Promise<string[]> {
  const build = await compiler();
  const start =
    'file' in entry
      ? { entryPoints: [entry.file] }
      : { stdin: { contents: entry.text, resolveDir: entry.folder, sourcefile: 'nodevmm.js' } };
  try {
    const { metafile } = await build({
      ...start,
      outfile: output,
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      sourcemap: 'inline',
      alias: { ...modules },
      external: Object.values(modules),
      metafile: true,
      logLevel: 'silent',
    });
    const inputs = Object.keys(metafile.inputs).map((input) => path.resolve(input));
    return inputs.filter((input) => existsSync(input) && !input.includes('/node_modules/'));
  } catch (error) {
    throw new UsageError('E_DEVICE', firstMessage(error), undefined, { cause: error });
  }
}

/** An optional dependency: only devices from files need it. */
async function compiler(): Promise<typeof import('esbuild').build> {
  try {
    return (await import('esbuild')).build;
  } catch (error) {
    const problem = `compiling a device needs esbuild: ${messageOf(error)}`;
    throw new UsageError('E_ESBUILD', problem, 'npm install esbuild', { cause: error });
  }
}

function firstMessage(error: unknown): string {
  const { errors } = error as {
    errors?: readonly { text: string; location?: { file: string; line: number } | null }[];
  };
  const first = errors?.[0];
  if (first === undefined) return String(error);
  const { location } = first;
  const place = location == null ? '' : `${location.file}:${location.line}: `;
  return `the device cannot be compiled: ${place}${first.text}`;
}

/** The modules that such files import, and their replacements in the loaded file. */
const MODULE = 'nodevmm/device';
const MODULE_FILE = fileURLToPath(new URL('./device-module.js', import.meta.url));

/** A device's module, ready for any thread. Disposal deletes its files. */
export interface LoadedDevice extends Disposable {
  /** Its default export. */
  readonly define: DeviceFactory;
  /** URL of a module with `createHandler({ options, config })`. */
  readonly url: string;
  /** The files that it was built from, except those of npm packages. */
  readonly files: readonly string[];
}

/** The argument of a loaded module's `createHandler`; cloneable. */
export interface LoadedHandlerOptions {
  readonly options: DeviceOptions;
}

/**
 * Compiles a file and what it imports into one module, and loads it.
 * @throws UsageError with file, line and reason when it cannot be compiled, fails, or defines no
 *   device
 */
export async function loadDevice(file: string): Promise<LoadedDevice> {
  const source = path.resolve(file);
  if (!existsSync(source)) {
    throw new UsageError('E_FILE', `no device file ${file}`, 'use a .ts or .js file');
  }
  // So that an error names the line that the user wrote.
  process.setSourceMapsEnabled(true);
  // Our own code is loaded from there.
  const folder = new TemporaryFolder('nodevmm-device-');
  const dispose = (): void => folder[Symbol.dispose]();
  try {
    const output = path.join(folder.path, `${path.basename(file).replace(/\.\w+$/, '')}.mjs`);
    const files = await bundleModule(
      { text: entryOf(source), folder: path.dirname(source) },
      output,
      { [MODULE]: MODULE_FILE },
    );
    const { define } = (await import(pathToFileURL(output).href)) as { define?: unknown };
    if (typeof define !== 'function') {
      throw new UsageError(
        'E_DEVICE',
        `${file} exports no device`,
        'export default defineDevice(...)',
      );
    }
    const url = pathToFileURL(writeWorkerModule(output)).href;
    return { define: define as DeviceFactory, url, files, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    if (error instanceof UsageError) throw error;
    const [why, remedy] = messageParts(error);
    throw new UsageError('E_DEVICE', `${file} cannot be loaded: ${why}`, remedy, { cause: error });
  }
}

/** The exports of the compiled file that main thread and workers use. */
function entryOf(source: string): string {
  return `
    import factory from ${JSON.stringify(source)};
    import { DefinedHandler } from ${JSON.stringify(MODULE)};
    export const define = factory;
    let definition;
    export const createHandler = ({ options }) =>
      new DefinedHandler((definition ??= factory(options)));
    export const eventLoop = true;
  `;
}

/** Errors in other threads, too, must name the lines that the user wrote. */
function writeWorkerModule(compiled: string): string {
  const file = compiled.replace(/\.mjs$/, '.worker.mjs');
  const text = `process.setSourceMapsEnabled(true);
export const { createHandler, eventLoop } = await import(${JSON.stringify(`./${path.basename(compiled)}`)});
`;
  writeFileSync(file, text);
  return file;
}
