/** Bad input to `nodevmm run`: status 2, one line with the cause, nothing left behind. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { RawFile } from '../../src/backend/raw-file.ts';
import { Tap } from '../../src/backend/tap.ts';
import { ListenPath } from '../../src/host/listen-path.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { bzImage } from '../support/fixtures/kernel-image.ts';
import { CliRun } from '../support/rigs/cli-run.ts';
import { testFolder } from '../support/rigs/files.ts';
import { tapReason } from '../support/rigs/host.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const noTaps = skip || tapReason();
const folder = testFolder(t);

function file(name: string, content: Uint8Array | string, size?: number): string {
  const at = path.join(folder, name);
  writeFileSync(at, content);
  if (size !== undefined) truncateSync(at, size);
  return at;
}

const kernel = file('kernel', bzImage());
const own = ['--kernel', kernel];
const disk = file('disk.raw', '', MiB);
const text = file('text', 'This is no kernel.\n'.repeat(1000));
const large = file('large', '', 600 * MiB);
const unpadded = file('unpadded', 'x'.repeat(1000));
const empty = file('empty', '');
const fifo = path.join(folder, 'fifo');
execFileSync('mkfifo', [fifo]);

const BAD: readonly (readonly [string, string[], RegExp])[] = [
  ['no kernel there', ['--kernel', '/nonexistent'], /\/nonexistent/],
  ['a folder for a kernel', ['--kernel', folder], /not a regular file/],
  ['a FIFO for a kernel', ['--kernel', fifo], /fifo/],
  ['an empty kernel', ['--kernel', empty], /empty/],
  ['not a kernel', ['--kernel', text], /text/],
  ...[600, 2000, 3000].map(
    (length) =>
      [
        `a kernel cut off after ${length} bytes`,
        ['--kernel', file(`cut-${length}`, bzImage().subarray(0, length))],
        new RegExp(`cut-${length}`),
      ] as [string, string[], RegExp],
  ),
  ['no initrd there', [...own, '--initrd', '/nonexistent'], /\/nonexistent/],
  ['a folder for an initrd', [...own, '--initrd', folder], /nodevmm-test-/],
  ['an empty initrd', [...own, '--initrd', empty], /empty/],
  ['an initrd too large', [...own, '--initrd', large], /large.*600 MiB/],
  ['too little memory', [...own, '--memory', '16M'], /16 MiB/],
  ['more memory than there is', [...own, '--memory', '64T'], /67108864 MiB.*this host has/],
  ['too many CPUs', [...own, '--cpus', '1000'], /1000/],
  ['no disk there', [...own, '--disk', '/nonexistent'], /\/nonexistent.*truncate/],
  ['a folder for a disk', [...own, '--disk', folder], /is a directory/],
  ['a FIFO for a disk', [...own, '--disk', fifo], /neither a file nor a block device/],
  ['an empty disk', [...own, '--disk', empty], /is empty.*truncate/],
  ['a disk of no whole sectors', [...own, '--disk', unpadded], /multiple of 512.*truncate/],
  ['one disk twice', [...own, '--disk', disk, '--disk', disk], /disk\.raw.*another run/],
  ['a serial too long', [...own, '--disk', `${disk},serial=123456789012345678901`], /serial/],
  ['an unknown key', [...own, '--disk', `${disk},speed=high`], /speed/],
  ['an impossible tap name', [...own, '--net', 'tap=a/b'], /a\/b/],
  ['no such address', [...own, '--net', 'auto,address=10.0.0.300/24'], /10\.0\.0\.300/],
  ['a console file that cannot be', [...own, '--console', 'file:/nonexistent/x'], /nonexistent/],
  ['a queue size of 3', [...own, '--ring', 'all,queue-size=3'], /power of two/],
  ['a context ID of the host', [...own, '--vsock', 'cid=2,path=s'], /cid=2; cid must be 3 to/],
  ['no folder for a socket', [...own, '--vsock', 'cid=3,path=/no/s'], /no folder \/no; create it/],
  ['a file for a socket', [...own, '--vsock', `cid=3,path=${text}`], /not a socket exists there/],
  ['a socket of too long a name', [...own, '--vsock', `cid=3,path=/${'x'.repeat(97)}`], /1 to 96/],
  ['an unknown option', [...own, '--bogus'], /--bogus/],
  ['no such guest', ['--guest', 'windows'], /windows/],
];

async function refused(
  t: Test,
  args: readonly string[],
  message: RegExp,
  uid?: number,
): Promise<CliRun> {
  const run = new CliRun(folder, args, uid);
  const { status, stdout, stderr } = await run.result;
  t.equal(status, 2);
  t.equal(stdout, '');
  t.match(stderr, message);
  t.match(stderr, /^nodevmm: [^\n]+\n$/, 'one line, no stack trace');
  return run;
}

for (const [what, args, message] of BAD) {
  t.test(what, { skip }, async (t) => {
    const run = await refused(t, args, message);
    t.same(run.leftovers([disk]), []);
  });
}

t.test('a kernel that fails after disk and tap were had', { skip: noTaps }, async (t) => {
  const run = await refused(
    t,
    ['--kernel', text, '--disk', disk, '--net', 'tap=nodevmm-bad'],
    /text/,
  );
  t.same(run.leftovers([disk]), []);
});

t.test('a tap that another run has', { skip: noTaps }, async (t) => {
  using tap = new Tap({ name: 'nodevmm-busy' });
  await refused(t, [...own, '--net', tap.name], /nodevmm-busy/);
});

t.test('a socket with a listener', { skip }, async (t) => {
  const path = `${folder}/sock`;
  using _owner = new ListenPath(path);
  await refused(t, [...own, '--vsock', `cid=3,path=${path}`], /another process is listening on it/);
});

t.test('a disk that another run has', { skip }, async (t) => {
  using _writer = new RawFile({ path: disk, readOnly: false, direct: false });
  await refused(t, [...own, '--disk', disk], /disk\.raw: another run is using it/);
  await refused(t, [...own, '--disk', `${disk},ro`], /disk\.raw: another run is writing to it/);
});

const NOBODY = 65534;
/** Why the program cannot be tried as an unprivileged user. */
function nobodyMissing(): string | false {
  if (process.getuid?.() !== 0) return 'needs root to run as nobody';
  const argv = ['dist/src/cli/main.js', '--version'];
  const { status } = spawnSync(process.execPath, argv, { uid: NOBODY, gid: NOBODY });
  return status === 0 ? false : 'nobody may not read the checkout';
}

t.test('what is not permitted', { skip: skip || nobodyMissing() }, async (t) => {
  chmodSync(folder, 0o755);
  const secret = file('secret.raw', '', MiB);
  chmodSync(secret, 0o600);
  const args = [...own, '--disk', secret];
  await refused(t, args, /(\/dev\/kvm|secret\.raw).*permission denied/i, NOBODY);
});
