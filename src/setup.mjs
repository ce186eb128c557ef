/**
 * Brings a checkout to where it can run: npm packages, the native addon, compiled TypeScript, and
 * with `--for test|lab|guest` the distribution packages that those want. Plain JavaScript without
 * dependencies, because it runs before there is anything else; does nothing, fast, when all is fresh.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const at = (...parts) => path.join(root, ...parts);
const readJson = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));

/** A failure that the person can do something about: one line, no stack. */
class SetupError extends Error {}

function checkHost() {
  const wanted = readJson(at('package.json')).engines.node.replace('>=', '');
  const [have, want] = [process.versions.node, wanted].map((v) => v.split('.').map(Number));
  if (have[0] < want[0] || (have[0] === want[0] && have[1] < want[1])) {
    throw new SetupError(`Node.js ${process.versions.node} is too old; install ${wanted} or newer`);
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new SetupError(
      `nodevmm runs on Linux on x86-64, this is ${process.platform} on ${process.arch}`,
    );
  }
}

/** True unless node_modules holds what package-lock.json names. */
function npmIsStale() {
  if (!fs.existsSync(at('package-lock.json'))) return false;
  let installed;
  try {
    installed = readJson(at('node_modules/.package-lock.json')).packages;
  } catch {
    return true;
  }
  return Object.entries(readJson(at('package-lock.json')).packages).some(([name, locked]) => {
    if (name === '') return false;
    const have = installed[name];
    // Packages for other platforms are in the lock, but not installed.
    if (have === undefined) return locked.optional !== true;
    return have.version !== locked.version;
  });
}

const ADDON = at('build/Release/nodevmm.node');
const AGENT = at('build/Release/nodevmm-agent');

const NATIVE_STAMP = at('build/.setup-stamp');

/**
 * A digest of what is compiled from C and C++, of its sources, and of the agent's compiler; times say nothing of a
 * copied folder.
 */
function nativeDigest() {
  const hash = createHash('sha256').update(String(onPath('musl-gcc')));
  const agent = [...filesUnder('guests/agent')].sort();
  const sources = ['binding.gyp', 'native/addon.cc', ...agent].map((name) => at(name));
  for (const file of [...sources, ADDON, AGENT]) hash.update(fs.readFileSync(file)).update('\n');
  return hash.digest('hex');
}

function nativeIsStale() {
  if (!fs.existsSync(at('binding.gyp'))) return false;
  if (![NATIVE_STAMP, ADDON, AGENT].every((file) => fs.existsSync(file))) return true;
  return fs.readFileSync(NATIVE_STAMP, 'utf8') !== nativeDigest();
}

const SOURCE_FOLDERS = ['src', 'test', 'bench'];

function* filesUnder(folder) {
  for (const entry of fs.readdirSync(at(folder), { withFileTypes: true })) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesUnder(name);
    else yield name;
  }
}

const sources = () =>
  SOURCE_FOLDERS.filter((folder) => fs.existsSync(at(folder)))
    .flatMap((folder) => [...filesUnder(folder)])
    .filter((name) => /\.(ts|css)$/.test(name));

/** A digest of names, sizes and times of all that the compiler reads. */
function fingerprint() {
  const hash = createHash('sha256');
  for (const name of [
    ...sources(),
    'src/bundle.mjs',
    'src/pack.mjs',
    'tsconfig.json',
    'package-lock.json',
  ].sort()) {
    const stat = fs.statSync(at(name), { throwIfNoEntry: false });
    hash.update(`${name} ${stat?.size} ${stat?.mtimeMs}\n`);
  }
  return hash.digest('hex');
}

const STAMP = at('dist/.setup-stamp');

function compiledIsStale() {
  if (!fs.existsSync(at('tsconfig.json'))) return false;
  if (!fs.existsSync(STAMP)) return true;
  return fs.readFileSync(STAMP, 'utf8') !== fingerprint();
}

/** Removes what was compiled from sources that are gone: a deleted test must not run on. */
function removeOrphans() {
  const known = new Set(sources());
  const orphans = SOURCE_FOLDERS.map((folder) => path.join('dist', folder))
    .filter((folder) => fs.existsSync(at(folder)))
    .flatMap((folder) => [...filesUnder(folder)])
    .filter((name) => {
      const source = name.slice('dist/'.length).replace(/(\.d\.ts|\.js)(\.map)?$/, '.ts');
      return source.endsWith('.ts') && !known.has(source);
    });
  for (const name of orphans) fs.rmSync(at(name), { force: true });
}

/** Where programs are that people do not start by name. */
const SYSTEM_FOLDERS = ['/usr/sbin', '/sbin', '/usr/libexec', '/usr/lib/qemu'];

function isProgram(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

const onPath = (command) =>
  [...(process.env.PATH ?? '').split(':'), ...SYSTEM_FOLDERS].some(
    (folder) => folder !== '' && isProgram(path.join(folder, command)),
  );

/** Which packages each purpose takes. */
const PURPOSES = {
  build: ['build'],
  guest: ['guest'],
  lab: ['guest', 'lab'],
  test: ['guest', 'lab', 'test'],
};

function missingPackages(purpose) {
  const needs = PURPOSES[purpose];
  if (needs === undefined) throw new SetupError(`--for takes ${Object.keys(PURPOSES).join(', ')}`);
  return readJson(at('src/packages.json')).filter(
    (entry) => needs.includes(entry.need) && !entry.probe.every(onPath),
  );
}

/** Runs a command with a progress line on stderr once it takes more than a second. */
async function step(title, command, args, options = {}) {
  const started = Date.now();
  const tty = process.stderr.isTTY;
  const child = spawn(command, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output = (output + text).slice(-100_000);
    });
  }
  const seconds = () => Math.round((Date.now() - started) / 1000);
  let shown = false;
  const timer = setInterval(() => {
    if (tty) process.stderr.write(`\r${'-\\|/'[seconds() % 4]} ${title} ... ${seconds()} s`);
    else if (!shown) process.stderr.write(`${title} ...\n`);
    shown = true;
  }, 1000);
  const failure = await new Promise((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code, signal) =>
      resolve(code === 0 ? undefined : `ended with ${signal ?? `status ${code}`}`),
    );
  });
  clearInterval(timer);
  if (tty && shown) process.stderr.write('\r\x1b[K');
  if (failure === undefined) {
    if (shown) process.stderr.write(`${title}: done in ${seconds()} s\n`);
    return;
  }
  const tail = output
    .trim()
    .split('\n')
    .slice(-(options.lines ?? 30));
  process.stderr.write(`${tail.join('\n')}\n`);
  throw new SetupError(`${title}: ${command} ${failure}${options.remedy ?? ''}`);
}

const aptGet = (entries) =>
  `apt-get install -y --no-install-recommends ${entries.map(({ name }) => name).join(' ')}`;

/** Installs distribution packages when it may, and looks whether they are there; else says which. */
async function installPackages(purpose) {
  const missing = missingPackages(purpose);
  if (missing.length === 0) return;
  if (process.getuid?.() !== 0 || !onPath('apt-get')) {
    const why = missing.map((entry) => `${entry.name} (${entry.for})`).join(', ');
    const message = `missing packages: ${why}; install them with: sudo ${aptGet(missing)}`;
    if (purpose === 'build') throw new SetupError(message);
    process.stderr.write(`nodevmm setup: ${message}\n`);
    return;
  }
  await step('package lists', 'apt-get', ['update'], { env: NO_QUESTIONS });
  // Some distributions have it inside another package: that goes first, and often suffices.
  const isPart = (entry) => missing.some((other) => other.name === entry.partOf);
  await aptInstall(missing.filter((entry) => !isPart(entry)));
  await aptInstall(missingPackages(purpose).filter(isPart));
  const lost = missingPackages(purpose).map(
    ({ name, probe }) => `${name} is installed, but not ${probe.filter((one) => !onPath(one))}`,
  );
  if (lost.length > 0) {
    throw new SetupError(
      `${lost.join('; ')}; find the package that has it (apt-file search --regexp '/NAME$') and name that in src/packages.json`,
    );
  }
}

const NO_QUESTIONS = { DEBIAN_FRONTEND: 'noninteractive' };

async function aptInstall(entries) {
  if (entries.length === 0) return;
  const [command, ...args] = aptGet(entries).split(' ');
  process.stderr.write(`nodevmm setup: installing Debian packages: ${args.slice(3).join(' ')}\n`);
  await step('Debian packages', command, args, { env: NO_QUESTIONS });
}

async function installNpmPackages() {
  // What the lock names. Not `npm ci`: it refuses a lock without the binaries for platforms that
  // nodevmm does not run on. And no scripts: the addon is a step of its own, with its own advice.
  const args = ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund'];
  await step('npm packages', 'npm', args, { remedy: '; npm says why above' });
  if (npmIsStale()) {
    throw new SetupError(
      'npm packages: npm reported success, but node_modules is not what package-lock.json names; remove node_modules and try again',
    );
  }
}

async function buildNative() {
  await installPackages('build');
  const prefix = path.resolve(path.dirname(fs.realpathSync(process.execPath)), '..');
  // Without the headers beside this Node, node-gyp downloads them.
  const headers = fs.existsSync(path.join(prefix, 'include/node/node_api.h'));
  const args = [at('node_modules/node-gyp/bin/node-gyp.js'), 'configure', 'build'];
  if (headers) args.push(`--nodedir=${prefix}`);
  const remedy = headers ? '' : '; it needs the headers of this Node.js, or a network to get them';
  await step('native addon', process.execPath, args, { remedy });
  const load = ['-e', 'process.dlopen({ exports: {} }, process.argv[1])', ADDON];
  await step('loading the native addon', process.execPath, load, { lines: 5 });
  await buildAgent();
  fs.writeFileSync(NATIVE_STAMP, nativeDigest());
}

/** The guest's agent. Against musl it has a tenth of the size, and both work. */
async function buildAgent() {
  const small = onPath('musl-gcc');
  const headers = ['/usr/include', '/usr/include/x86_64-linux-gnu'];
  const include = small ? headers.flatMap((folder) => ['-idirafter', folder]) : [];
  const flags = ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-s', '-Wl,--build-id=none'];
  const units = [...filesUnder('guests/agent')].filter((name) => name.endsWith('.c'));
  const args = [...flags, ...include, '-o', AGENT, ...units.map((name) => at(name))];
  await step('guest agent', small ? 'musl-gcc' : 'gcc', args);
}

async function compile() {
  const tsc = at('node_modules/typescript/bin/tsc');
  const before = fingerprint();
  removeOrphans();
  await step('TypeScript', process.execPath, [tsc, '-p', '.'], { lines: 60 });
  // Chunks are named by content: those of the last build would pile up.
  fs.rmSync(at('dist/bundle'), { recursive: true, force: true });
  await step('bundle', process.execPath, [at('src/bundle.mjs')]);
  await step('types', process.execPath, [at('src/pack.mjs')]);
  for (const main of ['dist/src/cli/main.js', 'dist/bundle/bin/main.js']) {
    fs.chmodSync(at(main), 0o755);
  }
  fs.writeFileSync(STAMP, before);
}

const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
};

/** Takes the lock file of this checkout, waiting for another set-up that holds it. */
async function lock() {
  fs.mkdirSync(at('dist'), { recursive: true });
  const file = at('dist/.setup-lock');
  const mine = `${file}.${process.pid}`;
  fs.writeFileSync(mine, String(process.pid));
  process.on('exit', () => fs.rmSync(mine, { force: true }));
  let told = false;
  for (;;) {
    try {
      // A link appears with its content, so no other set-up ever reads an empty lock.
      fs.linkSync(mine, file);
      fs.rmSync(mine);
      return () => fs.rmSync(file, { force: true });
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    let holder = 0;
    try {
      holder = Number(fs.readFileSync(file, 'utf8'));
    } catch {
      continue;
    }
    if (!alive(holder)) {
      fs.rmSync(file, { force: true });
      continue;
    }
    if (!told) process.stderr.write(`waiting for another set-up (process ${holder})\n`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const STEPS = [
  [npmIsStale, installNpmPackages],
  [nativeIsStale, buildNative],
  [compiledIsStale, compile],
];

async function build() {
  for (const [stale, run] of STEPS) if (stale()) await run();
}

async function main(args) {
  checkHost();
  const purpose = args[0] === '--for' ? args[1] : undefined;
  const wantsPackages = () => purpose !== undefined && missingPackages(purpose).length > 0;
  if (!wantsPackages() && !STEPS.some(([stale]) => stale())) return;
  const unlock = await lock();
  process.on('exit', unlock);
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
  await build();
  if (!wantsPackages()) return;
  await installPackages(purpose);
  // What they bring may build a smaller agent.
  await build();
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(
    error instanceof SetupError ? `nodevmm setup: ${error.message}\n` : `${error.stack}\n`,
  );
  process.exit(1);
});
