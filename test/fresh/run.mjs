/**
 * Both commands of README.md on a bare Debian, as on a machine that has never run the project:
 *
 *     npm run fresh [-- [--mirror URL] [ARGUMENTS OF npm test]]
 *
 * mmdebstrap makes the root file system, in the temporary folder. Of this host it gets Node.js and npm, how npm
 * and apt reach their servers, and a clone of the commit that is checked out. `npm start` runs on a
 * terminal until the guest's shell is there and has powered off; then `npm test`. The last lines say
 * what came of each; the exit status is that of the first that failed. Plain JavaScript without dependencies, as
 * src/setup.mjs.
 */
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const checkout = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const SUITE = 'bookworm';
const NODE_PREFIX = '/usr/local';
const CLONE = '/root/nodevmm';
/** The shell's prompt on the guest's console (guests/init/init). */
const PROMPT = /nodevmm:\S*[#$] $/;

/** A failure that the person can do something about: one line, no stack. */
class FreshError extends Error {}

/** A program's standard output; undefined when it fails or is missing. */
function outputOf(command, ...args) {
  const { status, stdout } = spawnSync(command, args, { cwd: checkout, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

function checkHost() {
  if (process.getuid() !== 0) {
    throw new FreshError('it mounts file systems and passes devices on; use sudo npm run fresh');
  }
  for (const command of ['mmdebstrap', 'unshare', 'setpriv', 'git']) {
    if (outputOf(command, '--version') === undefined) {
      const name = { unshare: 'util-linux', setpriv: 'util-linux' }[command] ?? command;
      throw new FreshError(`${command} is not on this host; apt-get install ${name}`);
    }
  }
}

/** Without what moves a terminal's cursor, or asks where it is. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin so
const plain = (text) => text.replace(/\x1b\[[\d;?]*[A-Za-z]/g, '');

/** The processes that work in the root file system; one at a time. */
let running;
/** A signal has come: nothing more is begun. */
let stopping = false;

/**
 * Runs a command in mount and PID namespaces of its own: when it ends, or this process, all its processes
 * and mounts are gone.
 * @param see gets the output as it comes, and what writes to its standard input
 * @returns its exit status, and the last line that it wrote
 */
async function contained(argv, options = {}) {
  const namespaces = ['unshare', '--mount', '--pid', '--fork', '--kill-child=KILL'];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...namespaces, ...argv], {
    // Without the terminal's Ctrl-C, which is for this process to answer.
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: options.env ?? process.env,
  });
  running = child;
  child.stdin.on('error', () => {});
  if (options.see === undefined) child.stdin.end();
  let tail = '';
  for (const [from, to] of [
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ]) {
    from.setEncoding('utf8').on('data', (text) => {
      to.write(text);
      tail = (tail + text).slice(-4000);
      options.see?.(tail, child.stdin);
    });
  }
  const status = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve(code ?? 128 + os.constants.signals[signal]));
  });
  running = undefined;
  if (stopping) await new Promise(() => {});
  const text = plain(tail);
  const lines = text.split(/[\r\n]+/).filter((line) => line.trim() !== '');
  return { status, lastLine: lines.at(-1) ?? '' };
}

/** Settings of this process that tell programs the way to their servers. */
const isAboutTheWay = (name) =>
  /^((https?|ftp|all|no)_proxy|NPM_CONFIG_REGISTRY|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS)$/i.test(name);

function environment() {
  const kept = Object.entries(process.env).filter(
    ([name]) => isAboutTheWay(name) || name === 'CI' || name === 'TERM',
  );
  return {
    ...Object.fromEntries(kept),
    PATH: `${NODE_PREFIX}/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin`,
    HOME: '/root',
    LANG: 'C.UTF-8',
    npm_config_progress: 'false',
  };
}

/** Copies a file to the same path below `root`, unless there is one. */
function copyThere(root, file) {
  const target = path.join(root, file);
  if (fs.existsSync(target) || !fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return;
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.copyFileSync(file, target);
}

/** Node.js with its headers, and npm, under the prefix of programs that no package owns. */
function copyNode(root) {
  const prefix = path.join(root, NODE_PREFIX);
  const node = fs.realpathSync(process.execPath);
  const npm = path.resolve(fs.realpathSync(npmProgram()), '../..');
  fs.mkdirSync(path.join(prefix, 'bin'), { recursive: true });
  fs.copyFileSync(node, path.join(prefix, 'bin/node'));
  fs.cpSync(npm, path.join(prefix, 'lib/node_modules/npm'), { recursive: true });
  for (const name of ['npm', 'npx']) {
    const program = `../lib/node_modules/npm/bin/${name}-cli.js`;
    fs.symlinkSync(program, path.join(prefix, 'bin', name));
  }
  const headers = path.resolve(node, '../../include/node');
  if (fs.existsSync(headers)) {
    fs.cpSync(headers, path.join(prefix, 'include/node'), { recursive: true });
  }
}

function npmProgram() {
  const { npm_execpath: own } = process.env;
  if (own?.endsWith('npm-cli.js')) return own;
  const found = outputOf('sh', '-c', 'command -v npm');
  if (found === undefined) throw new FreshError('npm is not on this host; use npm run fresh');
  return found;
}

/** Of npm's settings, without those that name folders of this host. */
function copyNpmSettings(root) {
  const places = { userconfig: '/root/.npmrc', globalconfig: `${NODE_PREFIX}/etc/npmrc` };
  for (const [setting, place] of Object.entries(places)) {
    const file = outputOf('npm', 'config', 'get', setting);
    if (file === undefined || !fs.existsSync(file)) continue;
    const lines = fs.readFileSync(file, 'utf8').split('\n');
    const settings = lines.filter((line) => !/^\s*(prefix|nodedir|cache)\s*=/.test(line));
    const target = path.join(root, place);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.writeFileSync(target, settings.join('\n'), { mode: 0o600 });
  }
  const authorities = [
    outputOf('npm', 'config', 'get', 'cafile'),
    process.env.NODE_EXTRA_CA_CERTS,
    process.env.SSL_CERT_FILE,
  ];
  for (const file of authorities) if (file?.startsWith('/')) copyThere(root, file);
}

/** apt's way to its servers: proxies, certificates and their like. */
function aptOptions(folder) {
  const acquire = (outputOf('apt-config', 'dump', 'Acquire') ?? '')
    .split('\n')
    .filter(
      (line) => !/ "";$|^Acquire::(Languages|IndexTargets|GzipIndexes|Compression)/.test(line),
    );
  if (acquire.length === 0) return [];
  const file = path.join(folder, 'apt.conf');
  fs.writeFileSync(file, acquire.map((line) => `${line}\n`).join(''));
  return [`--aptopt=${file}`];
}

async function makeRoot(folder, root, mirror) {
  console.log(`fresh: making a bare Debian ${SUITE}`);
  const options = ['--variant=minbase', '--format=directory', ...aptOptions(folder)];
  const argv = ['--mount-proc', 'mmdebstrap', ...options, SUITE, root];
  const { status, lastLine } = await contained(mirror === undefined ? argv : [...argv, mirror]);
  if (status !== 0) throw new FreshError(`mmdebstrap ended with status ${status}: ${lastLine}`);
  copyNode(root);
  copyNpmSettings(root);
  fs.rmSync(path.join(root, 'etc/resolv.conf'), { force: true });
  fs.copyFileSync('/etc/resolv.conf', path.join(root, 'etc/resolv.conf'));
}

function clone(root) {
  const changed = outputOf('git', 'status', '--porcelain');
  if (changed !== '') console.log('fresh: what is not committed is left out');
  const args = ['clone', '--quiet', '--depth', '1', `file://${checkout}`, path.join(root, CLONE)];
  const { status, stderr } = spawnSync('git', args, { encoding: 'utf8' });
  if (status !== 0) throw new FreshError(`cannot clone ${checkout}: ${stderr.trim()}`);
}

/** Runs a command in the clone, and tells of it. */
async function inside(root, command, see) {
  console.log(`\nfresh: ${command.join(' ')}`);
  const enter = path.join(checkout, 'test/fresh/enter.sh');
  const { status, lastLine } = await contained([enter, root, CLONE, ...command], {
    env: environment(),
    see,
  });
  return { status, lastLine };
}

/** `npm start` on a terminal: waits for the guest's shell, and powers off. */
async function start(root) {
  let reached = false;
  const { status, lastLine } = await inside(
    root,
    ['script', '-qec', 'npm start', '/dev/null'],
    (tail, input) => {
      if (reached || !PROMPT.test(plain(tail))) return;
      reached = true;
      input.write('poweroff\r');
    },
  );
  if (status === 0 && !reached) return { status: 1, lastLine: 'it ended before there was a shell' };
  return { status, lastLine };
}

function isMountedBelow(folder) {
  const points = fs.readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return points.some((line) => line.split(' ')[4]?.startsWith(`${folder}/`));
}

/** Ends what runs, and removes the root file system. */
async function cleanUp(folder) {
  const child = running;
  if (child !== undefined) {
    const closed = new Promise((resolve) => child.on('close', resolve));
    process.kill(-child.pid, 'SIGKILL');
    await closed;
  }
  // The mounts were in a namespace that is gone; never remove through one.
  if (isMountedBelow(folder)) throw new FreshError(`file systems are mounted below ${folder}`);
  fs.rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

function parse(args) {
  if (args[0] !== '--mirror') return { tests: args };
  if (args[1] === undefined) throw new FreshError('--mirror takes the address of a Debian mirror');
  return { mirror: args[1], tests: args.slice(2) };
}

async function main(args) {
  const { mirror, tests } = parse(args);
  checkHost();
  const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'nodevmm-fresh-'));
  // apt's user, who downloads, has to get through.
  fs.chmodSync(folder, 0o711);
  const root = path.join(folder, 'root');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      stopping = true;
      cleanUp(folder).then(() => process.exit(128 + os.constants.signals[signal]), fail);
    });
  }
  try {
    await makeRoot(folder, root, mirror);
    clone(root);
    const results = [['npm start', await start(root)]];
    const test = ['npm', 'test', ...(tests.length > 0 ? ['--', ...tests] : [])];
    results.push([test.join(' '), await inside(root, test)]);
    console.log('');
    for (const [command, { status, lastLine }] of results) {
      console.log(`fresh: ${command}: status ${status}: ${lastLine}`);
    }
    return results.find(([, { status }]) => status !== 0)?.[1].status ?? 0;
  } finally {
    await cleanUp(folder);
  }
}

function fail(error) {
  console.error(error instanceof FreshError ? `fresh: ${error.message}` : error.stack);
  process.exit(1);
}

main(process.argv.slice(2)).then((status) => process.exit(status), fail);
