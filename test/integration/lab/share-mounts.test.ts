/** What a share shows: which of the host's mounts, and how. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { bindingsOf, mountedCommand, parseMounts } from '../../../src/lab/share-mounts.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { otherUserReason } from '../../support/rigs/host.ts';

const root = { tag: 'root', path: '/', readOnly: true, still: true };
const project = { tag: 'share0', path: '/srv/a', readOnly: false, still: false };

const MOUNTS = parseMounts(`22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid,nodev,noexec shared:2 - proc proc rw
24 22 0:6 / /dev rw - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
26 22 0:30 / /run rw - tmpfs tmpfs rw
27 26 0:31 / /run/media/usb rw - vfat /dev/sdb1 rw
28 22 8:1 / /srv rw,noatime - xfs /dev/sda1 rw
29 28 8:2 / /srv/a/b\\040c\\134 ro,nosuid - ext4 /dev/sda2 rw
30 28 0:21 / /srv/a/chroot/proc rw - proc proc rw
31 28 0:32 / /srv/a/chroot/sys/fs/cgroup ro - cgroup2 cgroup2 rw
32 28 8:3 / /srv/ab rw - ext4 /dev/sda3 rw
33 22 0:40 / /mnt rw - tmpfs tmpfs rw
34 22 8:4 / /mnt rw,noexec - ext4 /dev/sda4 rw
`);

t.test('the root: file systems of files only, read-only, without devices', async (t) => {
  const ro = 'remount,bind,nodev,ro';
  t.same(bindingsOf(root, MOUNTS), [
    { source: '/', below: '', options: `${ro},relatime` },
    { source: '/srv', below: '/srv', options: `${ro},noatime` },
    { source: '/mnt', below: '/mnt', options: `${ro},noexec` },
    { source: '/srv/ab', below: '/srv/ab', options: ro },
    { source: '/srv/a/b c\\', below: '/srv/a/b c\\', options: `${ro},nosuid` },
  ]);
});

t.test('a folder: writable but for what the host mounts read-only', async (t) => {
  t.same(bindingsOf(project, MOUNTS), [
    { source: '/srv/a', below: '', options: 'remount,bind,nodev,noatime' },
    { source: '/srv/a/b c\\', below: '/b c\\', options: 'remount,bind,nodev,ro,nosuid' },
  ]);
  const usb = { ...project, path: '/run/media/usb' };
  t.equal(bindingsOf(usb, MOUNTS).length, 1, 'also below /run, on request');
  for (const no of ['/proc/sys', '/dev/shm/..', '/dev', '/srv/a/chroot/proc']) {
    const share = { ...project, path: path.resolve(no) };
    t.throws(() => bindingsOf(share, MOUNTS), { code: 'E_LAB' }, no);
  }
  const name = Buffer.from('/é').toString('latin1');
  t.equal(parseMounts(`1 1 8:1 / ${name} rw - ext4 x rw`)[0]?.at, '/é');
});

t.test('the server may open as many files as the limit can be raised to', (t) => {
  const at = path.join(testFolder(t), 'at');
  mkdirSync(at);
  const share = { tag: 's', path: testFolder(t), readOnly: true, still: true };
  const tools = { unshare: 'unshare', mount: 'mount' };
  const mounts = parseMounts(readFileSync('/proc/self/mountinfo', 'latin1'));
  const command = mountedCommand(tools, share, at, mounts, ['/bin/sh', '-c', 'ulimit -n']);
  const limited = (...argv: string[]) =>
    spawnSync('prlimit', ['--nofile=500:1000', ...argv], { encoding: 'utf8' });
  const all = readFileSync('/proc/sys/fs/nr_open', 'utf8');
  // Containers may lack CAP_SYS_RESOURCE.
  const mayRaise = limited('/bin/sh', '-c', `ulimit -n ${all}`).status === 0;
  const { stdout, stderr } = limited(...command);
  t.equal(stderr, '');
  t.equal(stdout, mayRaise ? all : '1000\n');
  t.end();
});

t.test('only the command sees that', { skip: otherUserReason() }, async (t) => {
  const folder = testFolder(t);
  const shared = path.join(folder, 'a b');
  const at = path.join(folder, 'at');
  for (const made of [shared, path.join(shared, 'inner'), path.join(shared, 'proc'), at]) {
    mkdirSync(made);
  }
  writeFileSync(path.join(shared, 'file'), 'mine');
  const mounts = (): string => readFileSync('/proc/self/mountinfo', 'latin1');
  const before = mounts();
  const tools = { unshare: 'unshare', mount: 'mount' };
  /** In a namespace with more mounts below the folder. */
  const run = (readOnly: boolean, script: string) => {
    const share = { tag: 's', path: shared, readOnly, still: false };
    const escaped = shared.replace(' ', '\\040');
    const more = parseMounts(`1 1 0:1 / ${escaped}/inner rw - tmpfs t rw
2 1 0:1 / ${escaped}/proc rw - proc p rw
3 1 0:1 / ${escaped}/gone rw - nfs p rw`);
    const all = [...parseMounts(before), ...more];
    const command = mountedCommand(tools, share, at, all, ['/bin/sh', '-c', script, 'sh']);
    const outer = `set -e
      mount -t tmpfs t "$1/inner"; echo inner > "$1/inner/file"; mount -t proc p "$1/proc"
      mknod "$1/inner/null" c 1 3; shift; exec "$@"`;
    const argv = ['--mount', '/bin/sh', '-c', outer, 'sh', shared, ...command];
    return spawnSync('unshare', argv, { encoding: 'utf8', cwd: '/' });
  };
  const look = 'cd "$0"; cat file inner/file; ls proc; cat inner/null';
  const seen = run(true, look.replace('$0', `${at}/share`));
  t.equal(seen.stdout, 'mineinner\n', 'the folder and what is mounted in it, but for /proc');
  t.match(seen.stderr, /inner\/null: Permission denied/, 'devices cannot be opened');
  for (const file of ['file', 'inner/file', 'new', 'proc/new']) {
    const { status, stderr } = run(true, `echo changed > "${at}/share/${file}"`);
    t.not(status, 0);
    t.match(stderr, /Read-only file system/, file);
  }
  t.equal(
    run(false, `echo changed > "${at}/share/file"; echo x > "${at}/share/inner/file"`).status,
    0,
  );
  t.equal(readFileSync(path.join(shared, 'file'), 'utf8'), 'changed\n');
  t.equal(mounts(), before);
  t.equal(run(true, 'exit 7').status, 7, 'the status is that of the command');
});
