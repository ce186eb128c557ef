/** The packed package in an empty project, as an installer leaves it that runs no scripts. */
import { execFile } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Closeable } from '../../../src/host/cleanup-stack.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { TemporaryFolder } from '../../../src/host/temporary-folder.ts';

const run = promisify(execFile);

/** What `npm pack --json` reports. */
export interface Packed {
  readonly file: string;
  readonly unpackedSize: number;
  readonly paths: readonly string[];
}

/** Makes the tarball of what has been compiled. */
async function pack(folder: string): Promise<Packed> {
  const cwd = packageFolder;
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder];
  const { stdout } = await run('npm', args, { cwd, maxBuffer: 16 << 20 });
  const [report] = JSON.parse(stdout) as [
    { filename: string; unpackedSize: number; files: { path: string }[] },
  ];
  return {
    file: join(folder, report.filename),
    unpackedSize: report.unpackedSize,
    paths: report.files.map(({ path }) => path),
  };
}

/** How a project installs packages. */
export interface Installer {
  /** The Node.js that the project runs with. */
  readonly node: string;
  /** The command, less the packages. */
  readonly add: readonly string[];
}

/** That of this host, with scripts turned off. */
const NPM: Installer = {
  node: process.execPath,
  add: ['npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund'],
};

/** What an addon is built with. */
const COMPILER = /^(node$|(.*-)?(cc|gcc|g\+\+|c\+\+|cpp|clang|make|gmake|ninja|python)[\d.-]*$)/;

/**
 * A project that has installed the packed package. Its programs find those of this host, but no
 * compiler, make or Python.
 */
export class PackageUser extends Closeable {
  readonly #temporary = new TemporaryFolder('nodevmm-project-');
  readonly path: string = join(this.#temporary.path, 'app');
  readonly #bin: string = join(this.path, 'bin');

  readonly #installer: Installer;

  /** Packs the checkout, and installs that without running scripts. */
  static async install(installer = NPM): Promise<{ project: PackageUser; packed: Packed }> {
    const project = new PackageUser(installer);
    const packed = await pack(project.#temporary.path);
    await project.add(packed.file);
    return { project, packed };
  }

  private constructor(installer: Installer) {
    super();
    this.#installer = installer;
    // QEMU runs as nobody.
    chmodSync(this.#temporary.path, 0o755);
    mkdirSync(this.path);
    mkdirSync(this.#bin);
    for (const folder of (process.env.PATH ?? '').split(delimiter).filter(existsSync)) {
      for (const name of readdirSync(folder)) {
        const link = join(this.#bin, name);
        if (COMPILER.test(name) || lstatSync(link, { throwIfNoEntry: false })) continue;
        // An alternative may be gone.
        if (existsSync(join(folder, name))) symlinkSync(realpathSync(join(folder, name)), link);
      }
    }
    symlinkSync(installer.node, join(this.#bin, 'node'));
    this.write('package.json', JSON.stringify({ name: 'app', private: true, type: 'module' }));
  }

  write(name: string, text: string): string {
    const file = join(this.path, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
    return file;
  }

  /** Installs more packages. */
  async add(...packages: readonly string[]): Promise<void> {
    const [program = '', ...args] = this.#installer.add;
    await this.run(program, ...args, ...packages);
  }

  /** Runs a program to its end. @returns its standard output @throws with its output when it fails */
  async run(program: string, ...args: readonly string[]): Promise<string> {
    // The runner of these tests would take the output of Node's for its own.
    const { NODE_TEST_CONTEXT: _, FORCE_COLOR: __, ...own } = process.env;
    const set = { PATH: this.#bin, NODE_V8_COVERAGE: '', NODE_OPTIONS: '', NO_COLOR: '1' };
    const env = { ...own, ...set };
    const { stdout } = await run(program, args, { cwd: this.path, env, maxBuffer: 16 << 20 });
    return stdout;
  }

  close(): void {
    this.#temporary.close();
  }
}
