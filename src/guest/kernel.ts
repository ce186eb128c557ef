/** A kernel and its modules in the cache, from a Debian package or, failing that, the host's own. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { messageParts, UsageError } from '../host/errors.ts';
import { cacheFolder, makeFolder, publishFolder } from './cache.ts';
import { compareVersions, downloadPackage, newestPackage, unpackPackage } from './debian.ts';
import { ModuleGraph, moduleName, readModuleInfo } from './kernel-modules.ts';
import { run } from './programs.ts';

/**
 * What guests are made with: a series of Debian's cloud kernel, or one of its kernel for real
 * machines, which has the drivers of what clouds do not have, and four times the size.
 */
export type KernelSeries = '6.12' | '6.1' | '6.12-amd64';
export const KERNEL_SERIES: readonly KernelSeries[] = ['6.12', '6.1', '6.12-amd64'];

/** A kernel ready for building guests. */
export interface Kernel {
  /** E.g. `6.12.48+deb12-cloud-amd64`. */
  readonly version: string;
  /** Path of the bzImage. */
  readonly image: string;
  /** Folder with `kernel/.../*.ko` (uncompressed), modules.dep and modules.alias. */
  readonly modules: string;
}

/** Reports progress. @param fraction 0 to 1 */
export type Progress = (step: string, fraction: number) => void;

interface Distribution {
  /** What the names of its packages begin with. */
  readonly prefix: string;
  /** Its versions, as in `uname -r`. */
  readonly version: RegExp;
  /** Versions of a host's own kernel that are used where there is no package. */
  readonly host: RegExp;
}

const distributions: Readonly<Record<KernelSeries, Distribution>> = {
  '6.12': {
    prefix: 'linux-image-6.12.',
    version: /^6\.12\.[^-]+-cloud-amd64$/,
    host: /^6\.12\./,
  },
  '6.1': {
    prefix: 'linux-image-6.1.0-',
    version: /^6\.1\.0-\d+-cloud-amd64$/,
    host: /^6\.1\./,
  },
  '6.12-amd64': {
    prefix: 'linux-image-6.12.',
    version: /^6\.12\.[^-]+-amd64$/,
    host: /^6\.12\.[^-]+-amd64$/,
  },
};

/**
 * The newest cached kernel of a series, or one made from the newest package.
 * @throws UsageError when there is no package and the host's own kernel cannot be used
 */
export async function prepareKernel(
  series: KernelSeries,
  progress: Progress = () => {},
): Promise<Kernel> {
  if (!KERNEL_SERIES.includes(series)) {
    const known = KERNEL_SERIES.join(', ');
    throw new UsageError(
      'E_KERNEL',
      `no kernel series ${series} for guests`,
      `use one of ${known}`,
    );
  }
  const cached = cachedKernel(series);
  if (cached !== undefined) return cached;
  progress(`linux ${series}: looking for the package`, 0);
  const source = await packagedKernel(series, progress).catch((error: unknown) =>
    hostKernel(series, error),
  );
  const version = source.version;
  await publishFolder(kernelFolder(version), async (folder) => {
    try {
      copyFileSync(source.image, join(folder, 'vmlinuz'));
      cpSync(join(source.modules, 'kernel'), join(folder, 'modules/kernel'), { recursive: true });
    } finally {
      source.release();
    }
    progress(`linux ${version}: unpacking modules`, 0.6);
    await decompress(join(folder, 'modules'));
    index(join(folder, 'modules'));
  });
  return kernelOf(version);
}

function kernelFolder(version: string): string {
  return cacheFolder('kernels', version);
}

/** A kernel in the cache, by its version. */
export function kernelOf(version: string): Kernel {
  const folder = kernelFolder(version);
  return { version, image: join(folder, 'vmlinuz'), modules: join(folder, 'modules') };
}

function cachedKernel(series: KernelSeries): Kernel | undefined {
  const folder = cacheFolder('kernels');
  if (!existsSync(folder)) return undefined;
  const { version, host } = distributions[series];
  const cached = readdirSync(folder).sort(compareVersions);
  const newest =
    cached.findLast((name) => version.test(name)) ??
    cached.find((name) => name === release() && host.test(name));
  return newest === undefined ? undefined : kernelOf(newest);
}

interface Source {
  readonly version: string;
  readonly image: string;
  readonly modules: string;
  readonly release: () => void;
}

async function packagedKernel(series: KernelSeries, progress: Progress): Promise<Source> {
  const distribution = distributions[series];
  const versionOf = (name: string): string => /^linux-image-(.*)-unsigned$/.exec(name)?.[1] ?? '';
  const name = await newestPackage(distribution.prefix, (candidate) =>
    distribution.version.test(versionOf(candidate)),
  );
  const version = versionOf(name);
  progress(`linux ${version}: downloading`, 0.1);
  const deb = await downloadPackage(name);
  progress(`linux ${version}: unpacking`, 0.4);
  const folder = `${kernelFolder(version)}.${process.pid}.deb.tmp`;
  rmSync(folder, { recursive: true, force: true });
  makeFolder(folder);
  await unpackPackage(deb, folder);
  const lib = existsSync(join(folder, 'usr/lib/modules')) ? 'usr/lib/modules' : 'lib/modules';
  return {
    version,
    image: join(folder, 'boot', `vmlinuz-${version}`),
    modules: join(folder, lib, version),
    release: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function hostKernel(series: KernelSeries, cause: unknown): Source {
  const version = release();
  const image = `/boot/vmlinuz-${version}`;
  const modules = `/lib/modules/${version}`;
  if (
    distributions[series].host.test(version) &&
    existsSync(image) &&
    existsSync(join(modules, 'kernel'))
  ) {
    return { version, image, modules, release: () => {} };
  }
  const [why, remedy] = messageParts(cause);
  throw new UsageError('E_KERNEL', `no ${series} kernel for guests: ${why}`, remedy, { cause });
}

function moduleFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.ko(\.\w+)?$/.test(path))
    .sort();
}

/** Busybox's modprobe takes no compressed modules. */
async function decompress(folder: string): Promise<void> {
  const paths = moduleFiles(folder).map((path) => join(folder, path));
  const tools: readonly (readonly [string, string, ...string[]])[] = [
    ['.xz', 'xz', '-d'],
    ['.zst', 'zstd', '-d', '-q', '--rm'],
    ['.gz', 'gzip', '-d'],
  ];
  for (const [suffix, program, ...options] of tools) {
    const files = paths.filter((path) => path.endsWith(suffix));
    if (files.length === 0) continue;
    await run(
      [program, ...options, ...files],
      `apt-get install ${program === 'xz' ? 'xz-utils' : program}`,
    );
  }
}

/** Makes modules.dep and modules.alias, as depmod(8) would, for loading more by name. */
function index(folder: string): void {
  const graph = moduleGraph(folder);
  const paths = moduleFiles(folder);
  writeFileSync(join(folder, 'modules.dep.tmp'), graph.dep(paths));
  renameSync(join(folder, 'modules.dep.tmp'), join(folder, 'modules.dep'));
  writeFileSync(join(folder, 'modules.alias'), graph.alias(paths));
}

/** The modules of a folder with uncompressed modules. @param only by these names and what they need */
export function moduleGraph(folder: string, only?: readonly string[]): ModuleGraph {
  const graph = new ModuleGraph();
  const byName = new Map(moduleFiles(folder).map((path) => [moduleName(path), path]));
  const seen = new Set<string>();
  const visit = (name: string): void => {
    const path = byName.get(moduleName(name));
    if (path === undefined || seen.has(path)) return;
    seen.add(path);
    const info = readModuleInfo(path, readFileSync(join(folder, path)));
    graph.add(path, info);
    info.depends.forEach(visit);
  };
  for (const name of only ?? byName.keys()) visit(name);
  return graph;
}
