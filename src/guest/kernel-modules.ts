/**
 * Kernel modules and what they need, read from the modules themselves: their ELF section
 * `.modinfo` holds `name=value` strings, among them `depends` and `alias` (what depmod(8) reads).
 */
import { UsageError } from '../host/errors.ts';

/** The metadata of a module. */
export interface ModuleInfo {
  /** As in /proc/modules: with `_` for `-`. */
  readonly name: string;
  readonly depends: readonly string[];
  readonly aliases: readonly string[];
  /** The kernel that it was compiled for. */
  readonly kernel: string | undefined;
}

/** A module's name as the kernel writes it. */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf('/') + 1);
  return file.replace(/\.ko(\.\w+)?$/, '').replaceAll('-', '_');
}

/**
 * Reads a module's `.modinfo`.
 * @param path where it came from, for its name and messages
 * @param elf the uncompressed module
 * @throws UsageError when it is not an ELF64 object
 */
export function readModuleInfo(path: string, elf: Buffer): ModuleInfo {
  const strings = section(path, elf, '.modinfo').toString('latin1').split('\0');
  const values = (key: string): string[] =>
    strings.filter((text) => text.startsWith(`${key}=`)).map((text) => text.slice(key.length + 1));
  return {
    name: moduleName(path),
    depends: values('depends')
      .flatMap((list) => list.split(','))
      .filter((name) => name !== '')
      .map(moduleName),
    aliases: values('alias'),
    kernel: values('vermagic')[0]?.split(' ')[0],
  };
}

/** ELF-64 object file format, section header table. */
function section(path: string, elf: Buffer, wanted: string): Buffer {
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46 || elf[4] !== 2) {
    throw new UsageError('E_MODULE', `${path} is not a kernel module`, 'remove it and build again');
  }
  const table = Number(elf.readBigUInt64LE(0x28));
  const size = elf.readUInt16LE(0x3a);
  const count = elf.readUInt16LE(0x3c);
  const bytesOf = (index: number): Buffer => {
    const at = table + index * size;
    const offset = Number(elf.readBigUInt64LE(at + 0x18));
    return elf.subarray(offset, offset + Number(elf.readBigUInt64LE(at + 0x20)));
  };
  const names = bytesOf(elf.readUInt16LE(0x3e));
  for (let index = 0; index < count; index += 1) {
    const at = elf.readUInt32LE(table + index * size);
    if (names.toString('latin1', at, names.indexOf(0, at)) === wanted) return bytesOf(index);
  }
  return Buffer.alloc(0);
}

/** The modules of a kernel: paths relative to `lib/modules/VERSION`, and their metadata. */
export class ModuleGraph {
  readonly #modules = new Map<string, { readonly path: string; readonly info: ModuleInfo }>();

  add(path: string, info: ModuleInfo): void {
    this.#modules.set(info.name, { path, info });
  }

  /**
   * The modules named and all that they need, each after what it needs.
   * @param names unknown ones are taken to be built in
   * @returns paths
   */
  closure(names: readonly string[]): string[] {
    const found = new Set<string>();
    const visit = (name: string): void => {
      const module = this.#modules.get(moduleName(name));
      if (module === undefined || found.has(module.path)) return;
      for (const needed of module.info.depends) visit(needed);
      found.add(module.path);
    };
    for (const name of names) visit(name);
    return [...found];
  }

  /** modules.dep of the modules with these paths, as modprobe(8) reads it. */
  dep(paths: readonly string[]): string {
    return lines(
      paths.map((path) => {
        const needed = this.closure([path]).filter((other) => other !== path);
        return [`${path}:`, ...needed.reverse()].join(' ');
      }),
    );
  }

  /** modules.alias of the modules with these paths. */
  alias(paths: readonly string[]): string {
    return lines(
      paths.flatMap((path) => {
        const info = this.#modules.get(moduleName(path))?.info;
        return (info?.aliases ?? []).map((alias) => `alias ${alias} ${info?.name}`);
      }),
    );
  }
}

function lines(rows: readonly string[]): string {
  return rows.map((row) => `${row}\n`).join('');
}
