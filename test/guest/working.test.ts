/** Commands, files, and connections in a real guest, and its end in the middle of them. */
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { connectUnix } from '../../src/agent/guest-connection.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

const folder = mkdtempSync(join(tmpdir(), 'nodevmm-working-'));
t.teardown(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]): string => join(folder, ...names);

async function received(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks).toString();
}

t.test('commands: shell, input, user, abort, timeout', async (t) => {
  await using vm = await bootGuest();
  t.equal((await vm.exec('cat | tr a-z A-Z', { input: 'words' })).stdout.toString(), 'WORDS');
  await t.rejects(vm.exec(['id'], { user: 'build' }), { code: 'E_USER' });
  await guestShell(
    vm,
    `echo build:x:1234:1234::/tmp:/bin/sh >>/etc/passwd
    printf 'build:x:1234:\\nextra:x:77:build\\n' >>/etc/group`,
  );
  const { stdout } = await vm.exec(
    'id -u; id -G; echo $HOME $USER $LOGNAME; touch /root/x || echo no',
    {
      user: 'build',
    },
  );
  t.match(stdout.toString(), /^1234\n(1234 77|77 1234)\n\/tmp build build\nno\n$/);
  const abort = new AbortController();
  const command = vm.spawn('sleep 1000 & echo up; wait', { signal: abort.signal });
  await once(command.stdout, 'data');
  abort.abort();
  await t.rejects(command.exit, { name: 'AbortError' });
  await t.rejects(vm.exec(['sleep', '1000'], { timeout: 5000 }), { code: 'E_TIMEOUT' });
  t.equal(await guestShell(vm, 'while pidof sleep; do :; done; echo none'), 'none');
});

t.test('files', async (t) => {
  await using vm = await bootGuest();
  const { files } = vm;
  await files.writeFile('/tmp/file', 'text', { mode: 0o640 });
  t.equal(await guestShell(vm, 'stat -c %a /tmp/file; cat /tmp/file'), '640\ntext');
  t.equal(await files.readFile('/proc/sys/kernel/hostname', 'utf8'), 'nodevmm\n');
  await t.rejects(files.readFile('/tmp/none'), { code: 'ENOENT', path: '/tmp/none' });
  t.ok((await files.stat('/dev/null')).isCharacterDevice());
  const bytes = Buffer.from(Uint32Array.from({ length: 200_000 }, (_, i) => i).buffer);
  mkdirSync(at('tree/deep'), { recursive: true });
  writeFileSync(at('tree/deep/bytes'), bytes, { mode: 0o755 });
  symlinkSync('deep/bytes', at('tree/link'));
  await files.copyIn(at('tree'), '/tmp/tree');
  t.equal(
    await guestShell(vm, 'stat -c %a /tmp/tree/link -L; readlink /tmp/tree/link'),
    '755\ndeep/bytes',
  );
  await files.copyOut('/tmp/tree', at('back'));
  t.ok(readFileSync(at('back/deep/bytes')).equals(bytes));
  t.equal(readlinkSync(at('back/link')), 'deep/bytes');
  t.ok((await buffer(files.createReadStream('/tmp/tree/deep/bytes'))).equals(bytes));
  const changes = files.watch('/tmp/tree');
  const first = changes.next();
  let seen = false;
  void first.then(() => {
    seen = true;
  });
  while (!seen) await files.writeFile('/tmp/tree/new', 'x');
  t.match(await first, { value: { filename: 'new' } });
  await changes.return();
});

/** A client that the guest's echo server has answered; until that listens, clients are reset. */
async function talking(port: number | undefined): Promise<Socket> {
  for (;;) {
    const client = connect({ port: port ?? 0, host: '127.0.0.1', allowHalfOpen: true });
    client.on('error', () => {});
    const answered = new Promise<boolean>((resolve) => {
      client.once('data', () => resolve(true)).once('close', () => resolve(false));
    });
    client.write('x');
    if (await answered) return client;
  }
}

const ECHO = ['nc', '-ll', '-p', '80', '-e', 'cat'];

t.test('ports and sockets', async (t) => {
  await using vm = await bootGuest();
  vm.spawn(ECHO).exit.catch(() => {});
  await using forward = await vm.forward({ 0: 80 });
  const client = await talking(forward.ports[0]);
  client.end('through the agent');
  t.equal(await received(client), 'through the agent');
  const [error] = await once(connectUnix(vm, '/tmp/none'), 'error');
  t.match(error, { code: 'ENOENT', syscall: 'connect' });
});

for (const [how, script, says] of [
  ['powers off', 'poweroff -f', /^the guest powered off before/],
  ['reboots', 'reboot -f', /^the guest rebooted before/],
  ['panics', 'echo c >/proc/sysrq-trigger', /^the guest's kernel panicked/],
] as const) {
  t.test(`whatever is under way ends when the guest ${how}`, async (t) => {
    await using vm = await bootGuest();
    const ended = { code: 'E_GUEST_ENDED', message: says };
    const server = vm.spawn(ECHO);
    const serving = t.rejects(server.exit, ended);
    const forward = await vm.forward({ 0: 80 });
    const client = await talking(forward.ports[0]);
    const lost = new Promise((resolve) => client.once('close', resolve));
    const reading = once(vm.files.createReadStream('/dev/zero').resume(), 'error');
    const watching = t.rejects(vm.files.watch('/root').next(), ended);
    const writing = vm.files.createWriteStream('/tmp/file');
    writing.write('begun');
    const written = once(writing, 'error');
    const waiting = t.rejects(vm.exec('echo begun; exec sleep 1000'), {
      ...ended,
      stdout: Buffer.from('begun\n'),
    });
    // What was started before has written by then.
    while ((await vm.files.readFile('/tmp/file', 'utf8').catch(() => '')) !== 'begun');
    await t.rejects(vm.exec(`${script}; exec sleep 1000`), ended);
    await Promise.all([lost, watching, waiting, serving]);
    t.match(await reading, [ended]);
    t.match(await written, [ended]);
    if (how === 'reboots') {
      t.equal(await guestShell(vm, 'echo up'), 'up');
      t.equal(await vm.files.exists('/tmp/file'), false);
      await forward.close();
    } else {
      await vm.wait();
      const [error] = await once(connect(forward.ports[0] ?? 0, '127.0.0.1'), 'error');
      t.match(error, { code: 'ECONNREFUSED' });
    }
  });
}

t.test('the stop of the machine ends them, too', async (t) => {
  const vm = await bootGuest();
  const ended = { code: 'E_GUEST_ENDED', message: /^the machine was stopped before/ };
  const waiting = t.rejects(vm.exec(['sleep', '1000'], { timeout: 1_000_000 }), ended);
  const watching = t.rejects(vm.files.watch('/root').next(), ended);
  await vm.exec('true');
  await vm.stop();
  await Promise.all([waiting, watching]);
  await t.rejects(vm.files.readFile('/etc/passwd'), { code: 'E_STATE' });
  await t.rejects(vm.forward({ 0: 80 }), { code: 'E_STATE' });
  await vm.close();
});
