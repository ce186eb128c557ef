/** Makes one JavaScript module of what a person wrote and what it imports; types are not checked. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { UsageError } from '../../host/errors.ts';

/** Where to begin. */
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
 * @param modules files that stand in for modules, and are not bundled, by what is imported
 * @returns the files that went into it, but for those of npm packages
 * @throws UsageError with file, line and reason
 */
export async function bundleModule(
  entry: BundleEntry,
  output: string,
  modules: Readonly<Record<string, string>>,
): Promise<string[]> {
  const { build } = await import('esbuild');
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
