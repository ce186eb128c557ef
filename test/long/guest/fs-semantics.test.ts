/**
 * What files of a shared folder do that those of a disk do, by Linux's driver: flags and offsets,
 * mounts below the folder, capabilities, ACLs, device nodes, files without a name.
 */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';

const PROBE = `${packageFolder}/test/long/guest/fs-probe.c`;

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-fs-'));
const at = (...names: string[]): string => path.join(folder, ...names);
const mounted: string[] = [];
t.teardown(() => {
  for (const mount of mounted.reverse()) execFileSync('umount', ['-l', mount]);
  rmSync(folder, { recursive: true });
});

/** Two mounts with the same inode numbers, a hard-linked pair in each, and a third. */
function mounts(share: string): void {
  for (const name of ['a', 'b', 'a/inner']) {
    const mount = at(share, name);
    mkdirSync(mount, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', 'test', mount]);
    mounted.push(mount);
    writeFileSync(path.join(mount, 'one'), `of ${name}`);
    execFileSync('ln', [path.join(mount, 'one'), path.join(mount, 'two')]);
  }
}

for (const share of ['own', 'alone', 'whole']) mkdirSync(at(share));
execFileSync('cc', ['-O1', '-static', '-o', at('own', 'probe'), PROBE]);
mounts('alone');
mounts('whole');

const vm = await bootGuest({
  machine: {
    fileSystems: [
      { tag: 'own', source: at('own'), queues: 2, mknod: true },
      { tag: 'alone', source: at('alone') },
      { tag: 'whole', source: at('whole'), submounts: true, xattr: 'passthrough' },
    ],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, script);
await sh(`modprobe virtiofs || true
  for tag in own alone whole; do mkdir -p /$tag; mount -t virtiofs $tag /$tag; done
  chmod 755 /own /own/probe`);

t.test('O_APPEND: pages of a mapping, and flags taken back', async (t) => {
  await sh('/own/probe append-map /own/mapped; /own/probe append-cleared /own/cleared');
  const mapped = readFileSync(at('own', 'mapped'));
  t.equal(mapped.length, 1032);
  t.equal(mapped.toString('latin1', 0, 6), 'mapped');
  t.equal(mapped.toString('latin1', 512, 517), 'again');
  t.equal(mapped.toString('latin1', 1024), 'appended');
  t.equal(readFileSync(at('own', 'cleared'), 'utf8'), 'ab23456789end');
  t.equal(await sh('cat /own/cleared'), 'ab23456789end', 'the guest sees the same');
});

t.test('guest and host append to one file', async (t) => {
  writeFileSync(at('own', 'log'), 'host\n');
  await sh('cat /own/log; echo guest >>/own/log');
  appendFileSync(at('own', 'log'), 'host\n');
  await sh('echo guest >>/own/log');
  t.equal(readFileSync(at('own', 'log'), 'utf8'), 'host\nguest\nhost\nguest\n');
});

t.test('mounts below a folder are empty folders, to mount on', async (t) => {
  t.equal(await sh('cd /alone; find . | sort | xargs echo'), '. ./a ./b');
  t.equal(
    await sh('ls -A /alone/a; cat /alone/a/one 2>&1 || true'),
    ["cat: can't open '/alone/a/one': No such file or directory"].join('\n'),
  );
  t.match(await sh('touch /alone/a/new 2>&1 || true'), /Invalid cross-device link/);
  t.equal(
    await sh(`mount -t tmpfs mine /alone/a; echo mine >/alone/a/one
      cat /alone/a/one; umount /alone/a; ls -A /alone/a`),
    'mine',
  );
  t.equal(await sh('df /alone/b | tail -n 1 | cut -d" " -f1'), 'alone');
});

t.test('submounts: tar, cp and find distinguish files with equal inode numbers', async (t) => {
  const found = 'a/inner/one a/inner/two a/one a/two b/one b/two';
  t.equal(await sh('cd /whole; find a b -type f | sort | xargs echo'), found);
  t.equal(await sh('stat -c %d /whole /whole/a /whole/b /whole/a/inner | sort -u | wc -l'), '4');
  t.equal(await sh('cd /whole; stat -c %i a/one b/one | uniq | wc -l'), '1', 'which are the same');
  await sh(`mkdir /tmp/tar /tmp/cp
    tar cf - -C /whole a b | tar xf - -C /tmp/tar
    cp -a /whole/a /whole/b /tmp/cp`);
  for (const copy of ['tar', 'cp']) {
    for (const name of ['a', 'b', 'a/inner']) {
      const content = await sh(`cat /tmp/${copy}/${name}/one /tmp/${copy}/${name}/two`);
      t.equal(content, `of ${name}of ${name}`, `${copy}: ${name}`);
    }
    const links = `cd /tmp/${copy}; stat -c %h a/one b/two a/inner/one | xargs echo`;
    t.equal(await sh(links), '2 2 2', `${copy}: hard links`);
  }
  t.equal(await sh('find /whole -xdev -type f'), '');
  t.match(await sh('ln /whole/a/one /whole/b/three 2>&1 || true'), /Invalid cross-device link/);
  await sh('mv /whole/a/two /whole/b/moved; echo more >>/whole/b/one; sync');
  t.equal(readFileSync(at('whole', 'b', 'moved'), 'utf8'), 'of a');
  t.equal(readFileSync(at('whole', 'b', 'two'), 'utf8'), 'of bmore\n');
  t.match(await sh('mount | grep -c " /whole"'), /^4$/, 'the guest has mounted them');
});

t.test('capabilities of files', async (t) => {
  await sh('cp /own/probe /own/raw; cp /own/probe /whole/probe; chmod 755 /own/raw /whole/probe');
  for (const program of ['/own/raw', '/whole/probe']) {
    const raw = `/own/probe as 65534 ${program} raw`;
    t.match(await sh(`${raw} || true`), /socket: Operation not permitted/);
    await sh(`/own/probe setcap ${program}`);
    t.equal(await sh(`/own/probe getxattr ${program} security.capability`), '20 bytes');
    t.equal(await sh(raw), 'a raw socket', `${program} by nobody`);
    await sh(`chown 1 ${program}`);
    t.match(await sh(`${raw} || true`), /not permitted/, 'a new owner takes it away');
    await sh(`/own/probe setcap ${program}; cp /own/probe ${program}`);
    t.match(await sh(`${raw} || true`), /not permitted/, 'and so does new content');
  }
});

t.test('ACLs', async (t) => {
  await sh('cd /own; echo secret >acl; chmod 600 acl; mkdir shared; chmod 777 shared');
  const read = (uid: number): Promise<string> =>
    sh(`/own/probe as ${uid} /bin/cat /own/acl 2>&1 || true`);
  t.match(await read(1000), /Permission denied/);
  await sh('/own/probe setfacl /own/acl system.posix_acl_access 1000');
  t.equal(await read(1000), 'secret');
  t.match(await read(1001), /Permission denied/);
  t.equal(statSync(at('own', 'acl')).mode & 0o777, 0o640);
  await sh('chmod 600 /own/acl');
  t.match(await read(1000), /Permission denied/, 'the mask is the group’s');
  await sh(`/own/probe setfacl /own/shared system.posix_acl_default 1000
    umask 077; echo secret >/own/shared/file; mkdir /own/shared/sub; echo >/own/plain`);
  t.equal(statSync(at('own', 'shared', 'file')).mode & 0o777, 0o640, 'it replaces the umask');
  t.equal(statSync(at('own', 'plain')).mode & 0o777, 0o600, 'which counts elsewhere');
  t.equal(await sh('/own/probe getxattr /own/shared/sub system.posix_acl_default'), '44 bytes');
});

t.test('device nodes, O_TMPFILE', async (t) => {
  await sh(`mknod /own/null c 1 3; echo gone >/own/null
    mkfifo /own/fifo; /own/probe tmpfile /own /own/named`);
  t.ok(lstatSync(at('own', 'null')).isCharacterDevice());
  t.equal(readFileSync(at('own', 'named'), 'utf8'), 'text');
  t.match(await sh('mknod /alone/null c 1 3 2>&1 || true'), /Operation not permitted/);
  t.notOk(existsSync(at('alone', 'null')));
});
