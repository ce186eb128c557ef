/** Options of exec and spawn, with the real agent. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import t from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import type { ExecOptions } from '../../../src/agent/command-options.ts';
import * as protocol from '../../../src/agent/protocol.ts';
import { startAgent } from '../../support/rigs/agent.ts';

async function withAgent(work: (agent: AgentClient) => Promise<void>): Promise<void> {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  try {
    await work(agent);
  } finally {
    agent.close();
    await ended;
  }
}

/** An agent that never comes up. */
function nobody(): Duplex {
  return new Duplex({
    read() {},
    write(_chunk, _encoding, done) {
      done();
    },
  });
}

async function gone(pid: number): Promise<void> {
  const lives = (): boolean =>
    existsSync(`/proc/${pid}/stat`) && !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  while (lives()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const folder = mkdtempSync(join(tmpdir(), 'nodevmm-exec-'));
const file = join(folder, 'written');
t.teardown(() => rmSync(folder, { recursive: true }));

/** What a command does once it has written: it adds a line to FILE, and stays. */
const SAY_SO = 'echo >>$FILE; exec sleep 1000';

/** Waits until as many commands have written, and all of it has arrived here: an agent keeps the order. */
async function written(agent: AgentClient, commands: number): Promise<void> {
  while (!existsSync(file) || readFileSync(file).length < commands) await agent.exec('true');
  rmSync(file);
  await agent.exec('true');
}

t.test('a string is run by a shell, an array is not', (t) =>
  withAgent(async (agent) => {
    const piped = await agent.exec('echo "$0 $1" | tr a-z A-Z', { env: { X: '1' } });
    t.equal(piped.stdout.toString(), '/BIN/SH \n');
    const other = await agent.exec('echo $BASH', { shell: '/bin/bash' });
    t.equal(other.stdout.toString(), '/bin/bash\n');
    t.equal((await agent.exec(['echo', '$0'], { shell: false })).stdout.toString(), '$0\n');
    const command = agent.spawn('exit 7', { shell: true });
    t.equal((await command.exit).exitCode, 7);
  }),
);

t.test('input is given to the command, and its end', (t) =>
  withAgent(async (agent) => {
    t.equal((await agent.exec('cat', { input: 'grün' })).stdout.toString(), 'grün');
    t.same((await agent.exec('cat', { input: Uint8Array.of(0, 255) })).stdout, Buffer.of(0, 255));
  }),
);

t.test('what cannot be meant is refused', (t) =>
  withAgent(async (agent) => {
    const refused: [unknown, object, RegExp][] = [
      [['true'], { timout: 5 }, /^unknown option timout of exec; did you mean timeout\?$/],
      [['true'], { stdin: 'x' }, /^unknown option stdin of exec; /],
      [['true'], { timeout: '5' }, /^exec\.timeout must be an integer, .*, not the string "5"$/],
      [['true'], { timeout: -1 }, /^exec\.timeout must be 0 to 2147483647, not -1$/],
      [['true'], { signal: {} }, /^exec\.signal must be an AbortSignal, not an object$/],
      [['true'], { input: 5 }, /^exec\.input must be a string or a Uint8Array, not 5$/],
      [['true'], { env: { A: 1 } }, /^exec\.env\.A must be .*, not 1$/],
      [['true'], { user: 0 }, /^exec\.user must be a string, not 0$/],
      [['true'], { killSignal: 'SIGNOPE' }, /^exec\.killSignal must be the name of a signal/],
      [['true'], { shell: true }, /^an array is run without a shell; /],
      ['true', { shell: false }, /^a command without a shell is an array/],
      ['', {}, /^cannot run an empty command$/],
      [[''], {}, /^cannot run an empty command$/],
      [[1], {}, /^a command is a string or an array of strings$/],
      ['a\0b', {}, /^cannot run "a\\u0000b": an argument contains a NUL byte/],
    ];
    for (const [command, options, message] of refused) {
      const wrong = agent.exec(command as string, options as ExecOptions);
      await t.rejects(wrong, { name: 'UsageError', message });
    }
    t.throws(() => agent.spawn(['true'], { input: 'x' } as object), {
      code: 'E_OPTION',
      message: /^unknown option input of spawn/,
    });
  }),
);

t.test('abort: the group is killed, and what it wrote is on the error', (t) =>
  withAgent(async (agent) => {
    const abort = new AbortController();
    const command = agent.spawn('echo begun; sleep 1000 & echo $!; wait', { signal: abort.signal });
    let pids = '';
    for await (const chunk of command.stdout) {
      pids += String(chunk);
      if (/^begun\n\d+\n$/.test(pids)) break;
    }
    abort.abort(new Error('enough'));
    await t.rejects(command.exit, { name: 'AbortError', code: 'ABORT_ERR' });
    await command.exit.catch((error: Error) => {
      t.match(error.cause, { message: 'enough' });
    });
    await gone(await command.started);
    await gone(Number(pids.split('\n')[1]));

    const again = new AbortController();
    const { signal } = again;
    const ran = agent.exec(`echo out; echo err >&2; ${SAY_SO}`, { signal, env: { FILE: file } });
    await written(agent, 1);
    again.abort();
    const output = { stdout: Buffer.from('out\n'), stderr: Buffer.from('err\n') };
    await t.rejects(ran, { name: 'AbortError', ...output });
    t.equal((await agent.exec('echo on')).stdout.toString(), 'on\n');
  }),
);

t.test('an aborted command that floods, unread, does not hold up the agent', (t) =>
  withAgent(async (agent) => {
    const abort = new AbortController();
    const command = agent.spawn(['yes'], { signal: abort.signal });
    await command.started;
    abort.abort();
    await t.rejects(command.exit, { code: 'ABORT_ERR' });
    await gone(await command.started);
    t.equal((await agent.exec('echo on')).stdout.toString(), 'on\n');
    // All of an agent's places are free again.
    const many = Array.from({ length: protocol.COMMANDS_MAX }, () => agent.exec('true'));
    for (const { exitCode } of await Promise.all(many)) if (exitCode !== 0) t.fail('no place');
  }),
);

t.test('an aborted signal: nothing runs', (t) =>
  withAgent(async (agent) => {
    const signal = AbortSignal.abort('no');
    await t.rejects(agent.exec(['touch', file], { signal }), { code: 'ABORT_ERR', cause: 'no' });
    await agent.ready();
    await t.rejects(agent.spawn(['touch', file], { signal }).started, { code: 'ABORT_ERR' });
    t.equal((await agent.exec(['true'])).exitCode, 0);
    t.equal(existsSync(file), false);
  }),
);

t.test('a signal that outlives its commands keeps nothing of them', (t) =>
  withAgent(async (agent) => {
    const { signal } = new AbortController();
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners += 1;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners -= 1;
      remove(...args);
    };
    await agent.exec('true', { signal });
    await t.rejects(agent.exec(['/no/such/program'], { signal }), { code: 'ENOENT' });
    t.equal(listeners, 0);
  }),
);

t.test('timeout: it is killed', (t) =>
  withAgent(async (agent) => {
    await agent.ready();
    const script = 'trap "" TERM; while :; do sleep 0.01; done';
    const late = agent.exec(script, { timeout: 5000 });
    await t.rejects(late, {
      name: 'PeerError',
      code: 'E_TIMEOUT',
      message: /^"trap .*" was killed: it did not end within 5000 ms; raise timeout$/,
      stdout: Buffer.alloc(0),
    });
    const polite = agent.spawn(['sleep', '1000'], { timeout: 5000, killSignal: 'SIGTERM' });
    await t.rejects(polite.exit, { code: 'E_TIMEOUT' });
    await gone(await polite.started);
    t.equal((await agent.exec('exit 3', { timeout: 60_000 })).exitCode, 3);
    t.equal((await agent.exec('exit 3', { timeout: 0 })).exitCode, 3);
  }),
);

t.test('timeout and abort end the wait for an agent that does not come', async (t) => {
  const agent = new AgentClient(nobody());
  await t.rejects(agent.exec(['ls'], { timeout: 20 }), {
    code: 'E_TIMEOUT',
    message: "ls was not run: the guest's agent did not answer within 20 ms; raise timeout",
  });
  const abort = new AbortController();
  const waiting = t.rejects(agent.exec(['ls'], { signal: abort.signal }), { code: 'ABORT_ERR' });
  abort.abort();
  await waiting;
  agent.close();
});

t.test('a command that was given up while the agent came up is not run', async (t) => {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  const abort = new AbortController();
  const command = agent.spawn('echo no', { signal: abort.signal });
  abort.abort();
  await t.rejects(command.started, { code: 'ABORT_ERR' });
  await agent.ready();
  t.equal((await agent.exec('echo yes')).stdout.toString(), 'yes\n');
  agent.close();
  await ended;
});

t.test('the end of the agent leaves what a command had written', async (t) => {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  const env = { FILE: file };
  const first = t.rejects(agent.exec(`echo one; ${SAY_SO}`, { env }), {
    code: 'E_AGENT_CLOSED',
    stdout: Buffer.from('one\n'),
  });
  const second = t.rejects(agent.exec(`echo two; ${SAY_SO}`, { env }), {
    code: 'E_AGENT_CLOSED',
    stdout: Buffer.from('two\n'),
  });
  await written(agent, 2);
  agent.close();
  await Promise.all([first, second, ended]);
});

const root = { skip: userInfo().uid === 0 ? false : 'only root can become another user' };

t.test('user: IDs, groups, and variables', root, (t) =>
  withAgent(async (agent) => {
    const { stdout } = await agent.exec('id -u; id -un; echo $HOME $USER $LOGNAME; pwd', {
      user: 'daemon',
    });
    t.equal(stdout.toString(), `1\ndaemon\n/usr/sbin daemon daemon\n${process.cwd()}\n`);
    const groups = await agent.exec(['id', '-G'], { user: 'daemon' });
    t.equal(groups.stdout.toString().trim(), '1');
    const own = await agent.exec('echo $HOME', { user: 'daemon', env: { HOME: '/tmp' } });
    t.equal(own.stdout.toString(), '/tmp\n', 'env goes before');
    const again = await agent.exec('echo by name >/dev/stdout', { user: 'daemon' });
    t.equal(again.stdout.toString(), 'by name\n');
    const tty = { columns: 80, rows: 25 };
    const named = await agent.exec('echo by name >$(tty)', { user: 'daemon', tty });
    t.equal(named.stdout.toString(), 'by name\r\n');
  }),
);

t.test('user: what it may not do', root, (t) =>
  withAgent(async (agent) => {
    await t.rejects(agent.exec(['ls'], { user: 'daemon', cwd: '/root' }), { code: 'EACCES' });
    await t.rejects(agent.exec(['/no/such'], { user: 'daemon' }), { code: 'ENOENT' });
    const read = await agent.exec(['cat', '/etc/shadow'], { user: 'daemon' });
    t.not(read.exitCode, 0);
    await t.rejects(agent.exec(['ls'], { user: 'no-such-user' }), {
      name: 'UsageError',
      code: 'E_USER',
      message:
        'cannot run ls in the guest: its /etc/passwd has no user no-such-user; use one that it has',
    });
    await t.rejects(agent.exec(['ls'], { user: 'root:x' }), { code: 'E_OPTION' });
    const killed = agent.spawn(['sleep', '1000'], { user: 'daemon' });
    await killed.started;
    killed.kill('SIGKILL');
    t.same(await killed.exit, { exitCode: 137, signal: 'SIGKILL' });
  }),
);

t.test('user: it ends with the agent, too', root, async (t) => {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  const command = agent.spawn(['sleep', '1000'], { user: 'daemon' });
  const pid = await command.started;
  const killer = agent.spawn('kill -9 $PPID');
  await t.rejects(command.exit, { code: 'E_AGENT_GONE' });
  await t.rejects(killer.exit, { code: 'E_AGENT_GONE' });
  await ended;
  await gone(pid);
  t.equal(agent.ended, true);
});
