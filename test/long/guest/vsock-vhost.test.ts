/** vhost-vsock with Linux at both ends: programs of the host use AF_VSOCK. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import t from 'tap';
import { agentBinary } from '../../../src/guest/executables.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../../support/rigs/files.ts';
import { bootGuest, createGuest, guestShell, vsockAnswer } from '../../support/rigs/guest.ts';

const CID = 77;
const BIG = randomBytes(10 * MiB);
const folder = testFolder(t);
const file = path.join(folder, 'vm.sock');
const agent = agentBinary;

/** The agent's tool for AF_VSOCK, as a program of the host. */
const tool = (...args: string[]): ChildProcessWithoutNullStreams =>
  spawn(agent, ['vsock', ...args]);

/** What it prints, and its status. */
async function resultOf(program: ChildProcessWithoutNullStreams): Promise<[Buffer, number | null]> {
  const parts: Buffer[] = [];
  program.stdout.on('data', (part: Buffer) => parts.push(part));
  const [status] = (await once(program, 'close')) as [number | null];
  return [Buffer.concat(parts), status];
}

/** Sends bytes to a port of the guest. @returns what comes back, to its end */
async function ask(port: number, bytes: Uint8Array): Promise<Buffer> {
  const program = tool('connect', `${CID}`, `${port}`);
  const result = resultOf(program);
  // One that is refused may have ended before: its status says so.
  program.stdin.on('error', () => {});
  program.stdin.end(bytes);
  const [answer, status] = await result;
  if (status !== 0) throw new Error(`status ${status}`);
  return answer;
}

const noPython = spawnSync('python3', ['--version']).status === 0 ? false : 'there is no python3';

const vm = await bootGuest({
  append: 'nodevmm.shell=0',
  machine: { vsock: { cid: CID, path: file, vhost: 'on' } },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, script);

/** A guest's program that runs once for each connection to a port. */
async function serve(port: number, ...argv: string[]): Promise<void> {
  const listener = vm.spawn(['nodevmm-agent', 'vsock', 'listen', `${port}`, ...argv]);
  await once(listener.stdout, 'data');
}
await serve(52, 'cat');

t.test('the host connects: 10 MiB there and back', async (t) => {
  t.equal(vm.datapaths.get('vsock0'), 'vhost');
  t.equal(sha256(await ask(52, BIG)), sha256(BIG));
  await serve(53, 'sha256sum');
  t.match((await ask(53, BIG)).toString(), sha256(BIG), 'after a half-close');
  await t.rejects(ask(999, Buffer.alloc(0)), /status 1/, 'no listener');
});

t.test('the program of the machine connects', async (t) => {
  t.match((await vsockAnswer(vm, 53, BIG)).toString(), sha256(BIG));
  const [error] = await once(vm.connect(999), 'error');
  t.match(error, { code: 'ECONNREFUSED', address: `vsock:${CID}:999` });
});

t.test('the example of docs/vsock.md', { skip: noPython }, async (t) => {
  const page = readFileSync(`${packageFolder}/docs/vsock.md`, 'utf8');
  const source = /```python\n([^`]*)```/.exec(page)?.[1] ?? '';
  t.match(source, '(3, 52)');
  const { stdout, stderr } = spawnSync('python3', ['-c', source.replace('(3,', `(${CID},`)]);
  t.equal(stdout.toString(), "b'hello\\n'\n", stderr.toString());
});

t.test('the guest connects', async (t) => {
  const listener = tool('listen', '60', 'sha256sum');
  t.teardown(() => listener.kill());
  await once(listener.stdout, 'data');
  const [sent, got] = (
    await sh(`head -c ${BIG.length} /dev/urandom >/tmp/sent
      sha256sum </tmp/sent
      nodevmm-agent vsock connect 2 60 </tmp/sent`)
  ).split('\n');
  t.equal(got, sent);
  t.match(
    await sh('nodevmm-agent vsock connect 2 999 </dev/null 2>&1 || echo status $?'),
    /Connection reset by peer\nstatus 1/,
  );
});

t.test('connections live through a pause', async (t) => {
  const program = tool('connect', `${CID}`, '52');
  const result = resultOf(program);
  program.stdin.write(BIG.subarray(0, MiB));
  await vm.pause();
  program.stdin.end(BIG.subarray(MiB, 2 * MiB));
  await vm.resume();
  t.equal(sha256((await result)[0]), sha256(BIG.subarray(0, 2 * MiB)));
});

t.test('another guest cannot have the same context ID', async (t) => {
  await t.rejects(createGuest({ machine: { vsock: { cid: CID, vhost: 'on' } } }), {
    code: 'E_CID',
    message: /another guest on this host uses context ID 77/,
  });
});

t.test('a move ends connections at both ends; listeners stay', async (t) => {
  const listener = tool('listen', '61', 'sh', '-c', 'echo joined; cat');
  t.teardown(() => listener.kill());
  await once(listener.stdout, 'data');
  const inGuest = vm.spawn(['nodevmm-agent', 'vsock', 'connect', '2', '61']);
  await once(inGuest.stdout, 'data');
  const program = tool('connect', `${CID}`, '52');
  const result = resultOf(program);
  program.stdin.write('hello');
  await once(program.stdout, 'data');
  await vm.moveDatapath('vsock0', 'userspace');
  t.equal((await result)[1], 1, "the host's program ends");
  t.equal((await inGuest.exit).exitCode, 1, "and the guest's");

  const socket = connect(file);
  socket.write('CONNECT 52\nhello');
  let received = '';
  while (!received.includes('hello')) received += String((await once(socket, 'data'))[0]);
  t.match(received, /^OK \d+\nhello$/);
  const closed = once(socket, 'close');
  await vm.moveDatapath('vsock0', 'vhost');
  await closed;
  t.equal((await ask(52, Buffer.from('again'))).toString(), 'again');
});

t.test('no socket is left', async (t) => {
  await vm[Symbol.asyncDispose]();
  t.notOk(existsSync(file));
});
