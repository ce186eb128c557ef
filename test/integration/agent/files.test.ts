/** The guest's files through the real agent: here, those of this host. */
import {
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import type { CommandSpawner } from '../../../src/agent/command.ts';
import { GuestFiles, type WriteFlag } from '../../../src/agent/guest-files.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const BIG = Buffer.from(Uint32Array.from({ length: 500_000 }, (_, i) => i).buffer);

const folder = mkdtempSync(join(tmpdir(), 'nodevmm-files-'));
const at = (...names: string[]): string => join(folder, ...names);
const { stream, ended } = await startAgent();
const agent = new AgentClient(stream);
const files = new GuestFiles(agent);
t.teardown(async () => {
  agent.close();
  await ended;
  rmSync(folder, { recursive: true });
});

t.test('whole files', async (t) => {
  const file = at('whole');
  await files.writeFile(file, 'grün\n');
  t.equal(await files.readFile(file, 'utf8'), 'grün\n');
  t.same(await files.readFile(file), readFileSync(file));
  await files.appendFile(file, Uint8Array.of(0, 255));
  t.same(readFileSync(file), Buffer.from([...Buffer.from('grün\n'), 0, 255]));
  await files.writeFile(file, BIG);
  t.ok((await files.readFile(file)).equals(BIG));
  await files.writeFile(file, 'ff00', 'hex');
  t.equal(await files.readFile(file, { encoding: 'hex' }), 'ff00');
  await files.writeFile(at('secret'), '', { mode: 0o600 });
  t.equal(statSync(at('secret')).mode & 0o777, 0o600);
  await t.rejects(files.writeFile(file, 'x', { flag: 'wx' }), { code: 'EEXIST' });
  await t.rejects(files.readFile(file, { maxBuffer: 1 }), {
    code: 'E_MAX_BUFFER',
    message: `${file} in the guest has more than 1 bytes; raise maxBuffer, or use createReadStream`,
  });
});

t.test('more calls at once than an agent runs', async (t) => {
  const paths = Array.from({ length: 300 }, (_, i) => at(`many${i % 10}`));
  await Promise.all(paths.map((path) => files.writeFile(path, 'x', { flag: 'a' })));
  const all = await Promise.all(paths.map((path) => files.readFile(path, 'utf8')));
  t.ok(all.every((text) => text.length === 30));
});

t.test("errors are Node's", async (t) => {
  const none = at('none');
  await t.rejects(files.readFile(none), {
    name: 'GuestSystemError',
    code: 'ENOENT',
    errno: -2,
    syscall: 'open',
    path: none,
    message: `ENOENT: no such file or directory, open '${none}' in the guest`,
  });
  await t.rejects(files.readFile(folder), { code: 'EISDIR' });
  await t.rejects(files.readdir(none), { code: 'ENOENT', syscall: 'scandir' });
  await t.rejects(files.stat(`${at('whole')}/x`), { code: 'ENOTDIR', syscall: 'stat' });
  await t.rejects(files.rename(none, at('other')), {
    code: 'ENOENT',
    path: none,
    dest: at('other'),
    message: /, rename '.*none' -> '.*other' in the guest$/,
  });
  await t.rejects(files.rm(folder), { code: 'EISDIR', syscall: 'rm' });
  await t.rejects(files.mkdir(folder), { code: 'EEXIST' });
  await t.rejects(files.writeFile('/dev/full', 'x'), { code: 'ENOSPC' });
  await t.rejects(files.readFile('a\0b'), { code: 'E_ARGV' });
  await t.rejects(files.stat(`/${'x'.repeat(300)}`), { code: 'ENAMETOOLONG' });
  await t.rejects(files.writeFile(none, '', { flag: 'r' as WriteFlag }), {
    code: 'E_OPTION',
    message: /^writeFile\.flag must be w, wx, .*, not "r"$/,
  });
  await t.rejects(files.mkdir(none, { recursiv: true } as object), {
    message: 'unknown option recursiv of mkdir; did you mean recursive?',
  });
});

t.test('folders', async (t) => {
  t.equal(await files.mkdir(at('one')), undefined);
  t.equal(await files.mkdir(at('a/b/c'), { recursive: true }), at('a'));
  t.equal(await files.mkdir(at('a/b/c'), { recursive: true }), undefined);
  await t.rejects(files.mkdir(at('whole'), { recursive: true }), { code: 'EEXIST' });
  writeFileSync(at('a/file'), '');
  symlinkSync('file', at('a/link'));
  t.same((await files.readdir(at('a'))).sort(), ['b', 'file', 'link']);
  const entries = await files.readdir(at('a'), { withFileTypes: true });
  const kinds = new Map(entries.map((entry) => [entry.name, entry]));
  t.ok(kinds.get('b')?.isDirectory());
  t.ok(kinds.get('file')?.isFile());
  t.ok(kinds.get('link')?.isSymbolicLink());
  t.equal(kinds.get('b')?.parentPath, at('a'));
  t.same(await files.readdir(at('one')), []);
  await files.rename(at('one'), at('two'));
  t.ok(existsSync(at('two')));
  await files.rm(at('a'), { recursive: true });
  await t.rejects(files.rm(at('a')), { code: 'ENOENT' });
  await files.rm(at('a'), { recursive: true, force: true });
  t.equal(existsSync(at('a')), false);
});

t.test('status, links, modes', async (t) => {
  writeFileSync(at('status'), 'four');
  await files.symlink('status', at('link'));
  t.equal(await files.readlink(at('link')), 'status');
  const [got, own] = [await files.stat(at('link')), statSync(at('link'))];
  for (const key of ['dev', 'ino', 'mode', 'nlink', 'uid', 'gid', 'rdev', 'size'] as const) {
    t.equal(got[key], own[key], key);
  }
  for (const key of ['blksize', 'blocks', 'mtimeMs', 'ctimeMs'] as const) {
    t.equal(got[key], own[key], key);
  }
  t.equal(got.mtime.getTime(), own.mtime.getTime());
  t.ok(got.isFile());
  t.ok((await files.lstat(at('link'))).isSymbolicLink());
  t.ok((await files.stat('/dev/null')).isCharacterDevice());
  await files.chmod(at('status'), 0o751);
  t.equal(statSync(at('status')).mode & 0o7777, 0o751);
  await files.access(at('status'), constants.X_OK);
  t.equal(await files.exists(at('status')), true);
  t.equal(await files.exists(at('nothing')), false);
});

t.test('streams', async (t) => {
  const file = at('stream');
  await pipeline(Readable.from([BIG, BIG]), files.createWriteStream(file));
  t.equal(statSync(file).size, 2 * BIG.length, 'all of it is written at the end');
  t.ok((await buffer(files.createReadStream(file))).equals(Buffer.concat([BIG, BIG])));
  const part = files.createReadStream(file, { start: 4, end: 11 });
  t.same(await buffer(part), BIG.subarray(4, 12));
  const over = files.createWriteStream(file, { flags: 'r+', start: 4 });
  await pipeline(Readable.from([Buffer.from('here')]), over);
  t.equal(readFileSync(file).toString('latin1', 4, 8), 'here');
  let text = '';
  for await (const piece of files.createReadStream('/etc/passwd', 'utf8')) text += piece;
  t.equal(text, readFileSync('/etc/passwd', 'utf8'));
  await t.rejects(buffer(files.createReadStream(at('none'))), { code: 'ENOENT', path: at('none') });
  const lost = pipeline(Readable.from([BIG]), files.createWriteStream(at('none/x')));
  await t.rejects(lost, { code: 'ENOENT', syscall: 'open' });
  const full = pipeline(Readable.from([BIG]), files.createWriteStream('/dev/full'));
  await t.rejects(full, { code: 'ENOSPC' });
  const { signal } = new AbortController();
  for await (const _ of files.createReadStream('/dev/zero', { signal })) break;
  const abort = new AbortController();
  const endless = buffer(files.createReadStream('/dev/zero', { signal: abort.signal }));
  abort.abort();
  await t.rejects(endless, { code: 'ABORT_ERR' });
});

/** A tree with all that is copied. */
function makeTree(root: string): void {
  mkdirSync(join(root, 'deep/er'), { recursive: true });
  writeFileSync(join(root, 'deep/er/file'), BIG);
  writeFileSync(join(root, 'script'), '#!/bin/sh\n', { mode: 0o755 });
  writeFileSync(join(root, 'empty'), '', { mode: 0o600 });
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.of(0xff, 0x0a)]), 'no text');
  symlinkSync('../outside', join(root, 'deep/link'));
  mkdirSync(join(root, 'sealed'));
  writeFileSync(join(root, 'sealed/in'), 'in');
  chmodSync(join(root, 'sealed'), 0o555);
}

/** What a copy keeps, by path. */
function treeOf(root: string): Record<string, string> {
  const names = readdirSync(root, { recursive: true, encoding: 'latin1' }).sort();
  return Object.fromEntries(
    names.map((name) => {
      const path = Buffer.from(`${root}/${name}`, 'latin1');
      const status = lstatSync(path);
      const mode = (status.mode & 0o777).toString(8);
      if (status.isSymbolicLink()) return [name, `-> ${readlinkSync(path)}`];
      return [name, `${mode} ${status.isFile() ? readFileSync(path, 'base64') : ''}`];
    }),
  );
}

t.test('folders are copied in and out', async (t) => {
  makeTree(at('tree'));
  await files.copyIn(at('tree'), at('in'));
  t.same(treeOf(at('in')), treeOf(at('tree')));
  await files.copyOut(at('in'), at('out'));
  t.same(treeOf(at('out')), treeOf(at('tree')));
  t.equal(Object.keys(treeOf(at('out'))).length, 9);
  writeFileSync(at('out/script'), 'changed');
  rmSync(at('out/deep'), { recursive: true });
  writeFileSync(at('out/more'), 'more');
  await files.copyOut(at('in'), at('out'));
  const { more, ...others } = treeOf(at('out'));
  t.same(others, treeOf(at('tree')), 'again, over what is there');
  t.match(more, /^644 /);
  await files.copyIn(at('tree'), at('in'));
  t.same(treeOf(at('in')), treeOf(at('tree')));
});

t.test('single files and links are copied', async (t) => {
  writeFileSync(at('single'), BIG, { mode: 0o640 });
  await files.copyIn(at('single'), at('single-in'));
  t.ok(readFileSync(at('single-in')).equals(BIG));
  t.equal(statSync(at('single-in')).mode & 0o777, 0o640);
  await files.copyOut(at('single-in'), at('single-out'));
  t.ok(readFileSync(at('single-out')).equals(BIG));
  symlinkSync('nowhere', at('single-link'));
  await files.copyOut(at('single-link'), at('single-link-out'));
  t.equal(readlinkSync(at('single-link-out')), 'nowhere');
  chmodSync(at('single'), 0o4755);
  await files.copyOut(at('single'), at('single-out'));
  t.equal(statSync(at('single-out')).mode & 0o7777, 0o755, "a guest's set-user-ID bit is left out");
});

t.test('copies that fail', async (t) => {
  await t.rejects(files.copyOut(at('none'), at('x')), { code: 'ENOENT', syscall: 'copyOut' });
  await t.rejects(files.copyIn(at('none'), at('x')), { code: 'ENOENT', syscall: 'lstat' });
  await t.rejects(files.copyIn(at('single'), at('none/x')), {
    code: 'ENOENT',
    syscall: 'copyIn',
    path: at('none/x'),
  });
  await t.rejects(files.copyOut(at('tree'), at('small'), { maxBytes: 100_000 }), {
    name: 'PeerError',
    code: 'E_MAX_BYTES',
  });
  await t.rejects(files.copyOut(at('tree'), at('single')), { code: 'EEXIST' });
  const signal = AbortSignal.abort();
  await t.rejects(files.copyOut(at('tree'), at('aborted'), { signal }), { code: 'ABORT_ERR' });
  await t.rejects(files.copyIn(at('tree'), at('aborted'), { signal }), { code: 'ABORT_ERR' });
});

t.test('changes are watched', async (t) => {
  mkdirSync(at('watched'));
  writeFileSync(at('watched/file'), '');
  const abort = new AbortController();
  const { signal } = abort;
  const seen = new Set<string>();
  const watching = (async () => {
    for await (const { eventType, filename } of files.watch(at('watched'), { signal })) {
      seen.add(`${eventType} ${filename}`);
    }
  })();
  let ended = false;
  watching.catch(() => {
    ended = true;
  });
  while (!ended && !(seen.has('change file') && seen.has('rename new'))) {
    await files.writeFile(at('watched/file'), 'x');
    await files.writeFile(at('watched/new'), 'x');
    await files.rm(at('watched/new'));
  }
  abort.abort();
  await t.rejects(watching, { name: 'AbortError' });
  await t.rejects(files.watch(at('none')).next(), { code: 'ENOENT', syscall: 'watch' });
  const file = files.watch(at('watched/file'));
  const first = file.next();
  let done = false;
  void first.then(() => {
    done = true;
  });
  while (!done) await files.appendFile(at('watched/file'), 'y');
  t.same(await first, { done: false, value: { eventType: 'change', filename: 'file' } });
  await file.return();
});

/** Files of a guest whose helper says this, and ends with a status. */
function hostile(bytes: Buffer, status = 0): GuestFiles {
  const file = at('said');
  writeFileSync(file, bytes);
  const spawner: CommandSpawner = {
    spawn: (_command, options) => agent.spawn(`cat ${file}; exit ${status}`, options),
  };
  return new GuestFiles(spawner);
}

/** A record of a copy. */
function entry(type: string, name = '', size = 0, mode = 0o644): Buffer {
  const head = Buffer.alloc(17);
  head.write(type);
  head.writeUInt32LE(mode, 1);
  head.writeUInt32LE(Buffer.byteLength(name), 5);
  head.writeBigUInt64LE(BigInt(size), 9);
  return Buffer.concat([head, Buffer.from(name)]);
}

const BROKEN = { name: 'PeerError', code: 'E_AGENT_PROTOCOL' };

t.test('what a hostile guest says of its files', async (t) => {
  await t.rejects(hostile(Buffer.alloc(10)).stat('/x'), BROKEN);
  for (const names of ['\x04../etc\0', '\x04a/b\0', '\x04.\0', '\x04\0', '\x04unended']) {
    await t.rejects(hostile(Buffer.from(names)).readdir('/x'), BROKEN, JSON.stringify(names));
  }
  await t.rejects(hostile(Buffer.alloc(0), 200).readFile('/x'), BROKEN);
  await t.rejects(hostile(Buffer.from('zname\0')).watch('/x').next(), BROKEN);
  await t.rejects(hostile(Buffer.from('r../name\0')).watch('/x').next(), BROKEN);
  await t.rejects(hostile(Buffer.alloc(100_000, 'r')).watch('/x').next(), BROKEN);
});

t.test('nothing is copied out of the target', async (t) => {
  mkdirSync(at('victim'));
  const escapes: [string, Buffer[]][] = [
    ['a path', [entry('D'), entry('F', '../victim/x', 1), Buffer.from('x')]],
    ['the parent', [entry('D'), entry('D', '..'), entry('D', 'victim')]],
    ['the folder itself', [entry('D'), entry('D', '.')]],
    ['no name', [entry('D'), entry('D', '')]],
    ['an absolute path', [entry('D'), entry('F', at('victim/x'), 0)]],
    ['a zero', [entry('D'), entry('F', 'a\0b', 0)]],
    ['a name for the target', [entry('F', 'x', 0)]],
    ['a second target', [entry('F', '', 0), entry('F', '', 0)]],
    ['an end too many', [entry('D'), entry('U'), entry('U')]],
    ['an end too few', [entry('D'), entry('E')]],
    ['an unknown type', [entry('D'), entry('X', 'x')]],
    ['a long name', [entry('D'), entry('D', 'x'.repeat(256))]],
    ['a long link', [entry('D'), entry('L', 'x', 5000), Buffer.alloc(5000, 'x')]],
    ['a deep tree', [entry('D'), ...Array.from({ length: 600 }, () => entry('D', 'd'))]],
    ['half a record', [entry('D').subarray(0, 5)]],
    ['half a file', [entry('D'), entry('F', 'x', 10), Buffer.from('half')]],
  ];
  for (const [what, records] of escapes) {
    const guest = hostile(Buffer.concat(records));
    await t.rejects(guest.copyOut('/x', at('escape')), BROKEN, what);
    rmSync(at('escape'), { recursive: true, force: true });
  }
  const link = (name: string): Buffer[] => [
    entry('L', name, Buffer.byteLength(at('victim'))),
    Buffer.from(at('victim')),
  ];
  const through = [entry('D'), ...link('link'), entry('D', 'link'), entry('F', 'x', 0)];
  const guest = hostile(Buffer.concat(through));
  await t.rejects(guest.copyOut('/x', at('escape')), { code: 'EEXIST' }, 'a folder through a link');
  const over = hostile(
    Buffer.concat([
      entry('D'),
      ...link('f'),
      entry('F', 'f', 2),
      Buffer.from('in'),
      entry('U'),
      entry('E'),
    ]),
  );
  await over.copyOut('/x', at('escape'));
  t.equal(readFileSync(at('escape/f'), 'utf8'), 'in');
  t.ok(lstatSync(at('escape/f')).isFile(), 'a file replaces a link, and is not written through it');
  t.same(readdirSync(at('victim')), []);
  const huge = hostile(Buffer.concat([entry('D'), entry('F', 'x', 2 ** 60)]));
  await t.rejects(huge.copyOut('/x', at('escape')), { code: 'E_MAX_BYTES' });
  const many = hostile(
    Buffer.concat(Array.from({ length: 100 }, (_, i) => entry(i ? 'F' : 'D', i ? `${i}` : ''))),
  );
  await t.rejects(many.copyOut('/x', at('escape'), { maxBytes: 50 * 4096 }), {
    code: 'E_MAX_BYTES',
  });
});
