/** Set-up looks for what it has installed: with an apt-get and an npm of the test's own. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';

interface Entry {
  readonly name: string;
  readonly need: string;
  readonly probe: readonly string[];
  readonly for: string;
  readonly partOf?: string;
}

/** A checkout with nothing but the set-up and a list of packages. */
class Checkout {
  readonly #folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-setup-'));
  readonly #at = (name: string): string => path.join(this.#folder, name);

  /** @param brings the programs that come with each package */
  constructor(
    t: Test,
    entries: readonly Entry[],
    brings: Readonly<Record<string, readonly string[]>>,
  ) {
    t.teardown(() => rmSync(this.#folder, { recursive: true }));
    for (const name of ['src', 'bin']) mkdirSync(this.#at(name));
    cpSync('src/setup.mjs', this.#at('src/setup.mjs'));
    cpSync('package.json', this.#at('package.json'));
    writeFileSync(this.#at('src/packages.json'), JSON.stringify(entries));
    const cases = Object.entries(brings).map(([name, programs]) => {
      const files = programs.map((program) => this.#at(`bin/${program}`)).join(' ');
      return `${name}) for file in ${files}; do : > $file; chmod 755 $file; done;;`;
    });
    this.program(
      'apt-get',
      `echo "$@" >> ${this.#at('apt.log')}; for name; do case $name in broken) echo no such package >&2; exit 100;; ${cases.join(' ')} esac; done`,
    );
  }

  program(name: string, script: string): void {
    writeFileSync(this.#at(`bin/${name}`), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }

  write(name: string, text: string): void {
    writeFileSync(this.#at(name), text);
  }

  /** Runs it. @returns its status, and the lines that it wrote */
  setUp(): { status: number | null; lines: string[] } {
    const { status, stderr } = spawnSync(
      process.execPath,
      [this.#at('src/setup.mjs'), '--for', 'test'],
      {
        encoding: 'utf8',
        env: { PATH: `${this.#at('bin')}:/usr/bin:/bin` },
        timeout: 60_000,
      },
    );
    return { status, lines: stderr.trim().split('\n') };
  }

  /** What apt-get was called to install, by call. */
  get installed(): string[] {
    const calls = readFileSync(this.#at('apt.log'), 'utf8').trim().split('\n');
    return calls
      .filter((call) => call.startsWith('install'))
      .map((call) => call.replace(/^install (-\S+ )*/, ''));
  }
}

const entry = (name: string, probe: string, partOf?: string): Entry => ({
  ...{ name, need: 'test', probe: [probe], for: 'tests' },
  ...(partOf === undefined ? {} : { partOf }),
});

const skip = process.getuid?.() === 0 ? false : 'only root installs packages';

t.test('a program that its package does not bring ends set-up in one line', { skip }, (t) => {
  const entries = [entry('good', 'probe-good'), entry('dpdk', 'probe-testpmd')];
  const checkout = new Checkout(t, entries, { good: ['probe-good'] });
  const { status, lines } = checkout.setUp();
  t.equal(status, 1);
  t.match(
    lines.at(-1),
    /^nodevmm setup: dpdk is installed, but not probe-testpmd; find the package/,
  );
  t.strictSame(checkout.installed, ['good dpdk'], 'apt-get is not asked again');
  t.end();
});

t.test('a package inside another one', { skip }, async (t) => {
  const entries = [entry('qemu', 'probe-qemu'), entry('fsd', 'probe-fsd', 'qemu')];

  t.test('comes with it', async (t) => {
    const checkout = new Checkout(t, entries, { qemu: ['probe-qemu', 'probe-fsd'] });
    t.equal(checkout.setUp().status, 0);
    t.strictSame(checkout.installed, ['qemu']);
  });
  t.test('is a package of its own', async (t) => {
    const checkout = new Checkout(t, entries, { qemu: ['probe-qemu'], fsd: ['probe-fsd'] });
    t.equal(checkout.setUp().status, 0);
    t.strictSame(checkout.installed, ['qemu', 'fsd']);
  });
  t.test('a package that stays missing: no loop', async (t) => {
    const checkout = new Checkout(t, entries, {});
    const { status, lines } = checkout.setUp();
    t.equal(status, 1);
    t.match(lines.at(-1), /qemu is installed, but not probe-qemu; fsd is installed, but not/);
    t.strictSame(checkout.installed, ['qemu', 'fsd']);
  });
  t.test('only the part was missing', async (t) => {
    const checkout = new Checkout(t, entries, { fsd: ['probe-fsd'] });
    checkout.program('probe-qemu', ':');
    t.equal(checkout.setUp().status, 0);
    t.strictSame(checkout.installed, ['fsd']);
  });
});

t.test('present packages are not installed, and nothing is printed', { skip }, (t) => {
  const checkout = new Checkout(t, [entry('good', 'probe-good')], { good: ['probe-good'] });
  const { status, lines } = checkout.setUp();
  t.equal(status, 0);
  t.match(lines[0], /installing Debian packages: good$/);
  t.strictSame(checkout.setUp(), { status: 0, lines: [''] });
  t.strictSame(checkout.installed, ['good']);
  t.end();
});

t.test('a file that is no program is no find', { skip }, (t) => {
  const checkout = new Checkout(t, [entry('good', 'probe-good')], { good: ['probe-good'] });
  checkout.write('bin/probe-good', '');
  t.equal(checkout.setUp().status, 0);
  t.strictSame(checkout.installed, ['good']);
  t.end();
});

t.test('apt-get that fails', { skip }, (t) => {
  const checkout = new Checkout(t, [entry('broken', 'probe-broken')], {});
  const { status, lines } = checkout.setUp();
  t.equal(status, 1);
  t.strictSame(lines.slice(-2), [
    'no such package',
    'nodevmm setup: Debian packages: apt-get ended with status 100',
  ]);
  t.end();
});

t.test('npm that reports success and installs something else', (t) => {
  const checkout = new Checkout(t, [], {});
  checkout.program('npm', 'exit 0');
  const locked = { packages: { '': {}, 'node_modules/koffi': { version: '1.0.0' } } };
  checkout.write('package-lock.json', JSON.stringify(locked));
  const { status, lines } = checkout.setUp();
  t.equal(status, 1);
  t.match(lines.at(-1), /^nodevmm setup: npm packages: npm reported success, but node_modules is/);
  t.end();
});
