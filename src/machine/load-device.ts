/** Loads a device that a person wrote, from a file in TypeScript or JavaScript. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { messageOf, UsageError } from '../host/errors.ts';
import type { DeviceFactory, DeviceOptions } from '../virtio/define/definition.ts';

/** What such files import, and what the loaded file imports in its place. */
const MODULE = 'nodevmm/device';
const MODULE_FILE = fileURLToPath(new URL('./device-module.js', import.meta.url));

/** A device's module, ready for any thread. Its files are gone after it. */
export interface LoadedDevice extends Disposable {
  /** Its default export. */
  readonly define: DeviceFactory;
  /** URL of a module with `createHandler({ options, config })`. */
  readonly url: string;
}

/** What `createHandler` of a loaded module takes; cloneable. */
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
    throw new UsageError('E_FILE', `there is no device ${file}; name a .ts or .js file`);
  }
  // So that an error names the line that the person wrote.
  process.setSourceMapsEnabled(true);
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-device-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  process.on('exit', remove);
  const dispose = (): void => {
    process.removeListener('exit', remove);
    remove();
  };
  try {
    const output = path.join(folder, `${path.basename(file).replace(/\.\w+$/, '')}.mjs`);
    await compile(source, output);
    const url = pathToFileURL(output).href;
    const { define } = (await import(url)) as { define?: unknown };
    if (typeof define !== 'function') {
      throw new UsageError(
        'E_DEVICE',
        `${file} exports no device; export default defineDevice(...)`,
      );
    }
    return { define: define as DeviceFactory, url, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    if (error instanceof UsageError) throw error;
    const text = messageOf(error);
    throw new UsageError('E_DEVICE', `${file} cannot be loaded: ${text}`, { cause: error });
  }
}

async function compile(source: string, output: string): Promise<void> {
  const { build } = await import('esbuild');
  const contents = `
    import factory from ${JSON.stringify(source)};
    import { DefinedHandler } from ${JSON.stringify(MODULE)};
    export const define = factory;
    export const createHandler = ({ options }) => new DefinedHandler(factory(options));
  `;
  try {
    await build({
      stdin: { contents, resolveDir: path.dirname(source), sourcefile: 'nodevmm-device.js' },
      outfile: output,
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      sourcemap: 'inline',
      alias: { [MODULE]: MODULE_FILE },
      external: [MODULE_FILE],
      logLevel: 'silent',
    });
  } catch (error) {
    throw new UsageError('E_DEVICE', firstMessage(error), { cause: error });
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
