/** The lab as its users have it: KVM, files, streams and statuses. One boot serves all. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { AgentBroker } from '../../src/agent/broker.ts';
import { cacheFolder, Inputs } from '../../src/guest/cache.ts';
import { buildGuest } from '../../src/guest/guests.ts';
import { buildInitramfs } from '../../src/guest/image.ts';
import { prepareKernel } from '../../src/guest/kernel.ts';
import { recipes } from '../../src/guest/recipe.ts';
import { PeerError } from '../../src/host/errors.ts';
import { packageFolder } from '../../src/host/package-folder.ts';
import { Lab } from '../../src/lab/lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(600_000);
const lab = await Lab.boot({ env: { ASKED: 'a b', LANG: 'C' } });
t.teardown(() => lab.close());

const sh = async (script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await lab.exec(['sh', '-c', script]);
  if (exitCode !== 0) throw new Error(`${script}: status ${exitCode}: ${stderr}`);
  return stdout.toString();
};

const STOPPED = new PeerError('E_LAB_STOPPED', 'the lab was stopped');

t.test('what a KVM host has', async (t) => {
  for (const device of ['kvm', 'net/tun', 'vhost-net', 'vhost-vsock']) {
    t.equal(await sh(`test -c /dev/${device} && echo yes`), 'yes\n', device);
  }
  t.match(await sh('cat /proc/modules'), /^kvm_amd /m);
  t.match(await sh('cat /sys/module/kvm_amd/parameters/npt'), /[1Y]/, 'nested paging');
  t.equal(await sh('test -d /sys/kernel/debug/kvm && echo yes'), 'yes\n', 'KVM statistics');
  t.match(await sh('ulimit -l'), /unlimited/, 'locked memory');
});

t.test('KVM runs a guest in hardware, as the probe sees it', async (t) => {
  const probe = join(packageFolder, 'dist/src/kvm/probe.js');
  const script = `import(${JSON.stringify(probe)}).then((m) => console.log(JSON.stringify(m.probeKvm())))`;
  const { stdout } = await lab.exec([process.execPath, '-e', script]);
  t.equal((JSON.parse(stdout.toString()) as { usable: boolean }).usable, true);
});

t.test('statuses and streams come back', async (t) => {
  const end = await lab.exec(['sh', '-c', 'cat; echo err >&2; exit 42'], { input: 'in' });
  t.same([end.stdout.toString(), end.stderr.toString(), end.exitCode], ['in', 'err\n', 42]);
  t.equal((await lab.exec(['sh', '-c', 'kill -9 $$'])).exitCode, 137);
  await t.rejects(lab.exec(['/no/such/program']), { code: 'ENOENT' });
});

t.test('10 MiB go in and come out whole', async (t) => {
  const input = randomBytes(10 * 2 ** 20);
  const { stdout } = await lab.exec(['cat'], { input });
  const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  t.equal(hash(stdout), hash(input));
  t.equal((await lab.exec(['sha256sum'], { input })).stdout.toString().slice(0, 64), hash(input));
});

t.test('a run of any size is handed over, for root only, and once', async (t) => {
  const machine = {
    kernel: '/no/kernel',
    commandLine: 'x'.repeat(2 ** 18),
    disks: [{ path: '/no/disk' }],
  };
  const plan = { console: { to: 'none' }, serial: { to: 'none' } };
  const file = await lab.writeFile(JSON.stringify({ machine, plan, summary: false }));
  t.equal(await sh(`stat -c '%a %u' ${file}`), '600 0\n');
  const program = join(packageFolder, 'dist/src/cli/main.js');
  const run = await lab.exec([process.execPath, program, 'run', '--spec', file]);
  t.match(run.stderr.toString(), /^nodevmm: [^\n]*\/no\/disk/);
  t.equal(run.exitCode, 2);
  t.equal(await sh(`test -e ${file} || echo gone`), 'gone\n');
});

t.test('files of the project and the cache go both ways', async (t) => {
  for (const base of [packageFolder, cacheFolder()]) {
    const folder = mkdtempSync(join(base, '.lab-test-'));
    try {
      writeFileSync(join(folder, 'in'), 'from the host');
      t.equal(
        await sh(`cat ${folder}/in && echo -n 'from the lab' > ${folder}/out`),
        'from the host',
      );
      t.equal(readFileSync(join(folder, 'out'), 'utf8'), 'from the lab');
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
});

t.test('elsewhere the lab writes to memory of its own', async (t) => {
  const path = `/etc/nodevmm-lab-test-${process.pid}`;
  t.equal(await sh(`echo mine > ${path} && cat ${path}`), 'mine\n');
  t.notOk(existsSync(path), 'the host does not see it');
});

t.test(
  "root in the lab cannot change the host's files, nor reach its kernel or devices",
  async (t) => {
    const folder = mkdtempSync('/var/tmp/nodevmm-lab-test-');
    t.teardown(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'file');
    writeFileSync(file, 'the host');
    const device = join(folder, 'null');
    execFileSync('mknod', [device, 'c', '1', '3']);
    // The share itself, without the overlay.
    await sh('mkdir -p /run/host && mount -t virtiofs root /run/host');
    const refused = async (script: string): Promise<void> => {
      const { stderr, exitCode } = await lab.exec(['sh', '-c', script]);
      t.not(exitCode, 0, script);
      t.match(stderr.toString(), /Read-only file system/, script);
    };
    await lab.exec(['mount', '-o', 'remount,rw', '/run/host']);
    t.match(
      await sh('grep " /run/host " /proc/mounts'),
      / rw[ ,]/,
      'it is writable as the lab sees it',
    );
    t.equal(await sh(`cat /run/host${file}`), 'the host');
    await refused(`echo changed > /run/host${file}`);
    await refused(`chmod 0777 /run/host${file}`);
    await refused(`rm /run/host${file}`);
    await refused(`touch /run/host${folder}/new`);
    await refused(`mknod /run/host${folder}/device c 1 3`);
    t.equal(readFileSync(file, 'utf8'), 'the host');
    t.equal(statSync(file).mode & 0o777, 0o644);
    t.same(readdirSync(folder).sort(), ['file', 'null']);
    t.equal(await sh('cd /run/host; ls -A proc sys'), 'proc:\n\nsys:\n', 'the kernel is missing');
    const inProject = `/run/host${packageFolder}/package.json`;
    await refused(`echo >> ${inProject}`);
    await sh('umount /run/host');
  },
);

t.test('QEMU runs as a user that does not exist here, with no rights', async (t) => {
  const status = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/status`, 'latin1');
      } catch {
        return '';
      }
    })
    .find((text) => /^Name:\tqemu/.test(text) && text.includes(`\nPPid:\t${process.pid}\n`));
  const ids =
    /^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$/m
      .exec(status ?? '')
      ?.slice(1)
      .map(Number) ?? [];
  t.equal(new Set(ids).size, 1);
  t.ok((ids[0] ?? 0) >= 60_706 && (ids[0] ?? 0) < 61_184, `user ${ids[0]}`);
  t.match(status, /^Groups:\s*$/m);
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd']) {
    t.match(status, new RegExp(`^${set}:\\t0+$`, 'm'));
  }
  t.match(status, /^NoNewPrivs:\t1$/m);
  t.match(status, /^Seccomp:\t2$/m);
});

t.test('the environment: some of ours, the requested one, and that of the command', async (t) => {
  process.env.UNASKED = 'here';
  t.teardown(() => delete process.env.UNASKED);
  const show = 'echo "$ASKED,$UNASKED,$LANG,$HOME,$NODEVMM_IN_LAB"';
  t.equal(await sh(show), `a b,,C,${process.env.HOME},1\n`);
  const { stdout } = await lab.exec(['sh', '-c', show], { env: { ASKED: 'c', UNASKED: 'd' } });
  t.equal(stdout.toString(), `c,d,C,${process.env.HOME},1\n`);
});

t.test('commands run in our directory, on a terminal of the requested size', async (t) => {
  t.equal((await sh('pwd')).trim(), process.cwd());
  const command = lab.spawn(['stty', 'size'], { tty: { columns: 123, rows: 45 } });
  let text = '';
  for await (const chunk of command.stdout) text += String(chunk);
  t.equal(text, '45 123\r\n');
});

t.test('a broker lets others in at the same time', async (t) => {
  const path = join(cacheFolder(), `.broker-${process.pid}`);
  const broker = new AgentBroker(lab.agent, STOPPED);
  const server = createServer((stream) => void broker.serve(stream));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const other = await Lab.attach(path, { ASKED: 'theirs' });
  const asked = ['sh', '-c', 'echo $ASKED'];
  const [theirs, ours] = await Promise.all([other.exec(asked), lab.exec(asked)]);
  t.same([theirs.stdout.toString(), ours.stdout.toString()], ['theirs\n', 'a b\n']);
  await other.close();
  server.close();
});

t.test('guests are found in the lab as they were made outside', async (t) => {
  const guest = await buildGuest('minimal');
  const module = join(packageFolder, 'dist/src/guest/guests.js');
  const script = `import(${JSON.stringify(module)}).then(async (m) => {
    const steps = [];
    const onProgress = (step) => steps.push(step);
    console.log(JSON.stringify({ ...(await m.buildGuest('minimal', { onProgress })), steps }));
  })`;
  const { stdout } = await lab.exec([process.execPath, '-e', script]);
  t.same(JSON.parse(stdout.toString()), { ...guest, steps: [] });
});

t.test('the same recipe gives the same bytes', async (t) => {
  const kernel = await prepareKernel('6.12');
  const build = () => buildInitramfs(recipes.minimal, kernel, new Inputs());
  t.ok((await build()).equals(await build()));
});

t.test('a lab that cannot boot shows the end of its console', async (t) => {
  const failing = Lab.boot({ memory: 512 * 2 ** 20, kernelArgs: 'rdinit=/no/such/init' });
  await t.rejects(failing, { code: 'E_LAB_GONE', message: /did not boot.*panic/s });
});

// The last one, since it ends the lab.
t.test('commands in a lab that dies get the reason', async (t) => {
  const waiting = lab.exec(['sleep', '1000']);
  const panicking = lab.exec(['sh', '-c', 'echo c >/proc/sysrq-trigger']);
  const why = { code: 'E_LAB_GONE', message: /the lab died: qemu ended.*sysrq triggered crash/s };
  await Promise.all([t.rejects(waiting, why), t.rejects(panicking, why)]);
});
