/** AgentClient against the real agent. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Duplex } from 'node:stream';
import t from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import * as protocol from '../../../src/agent/protocol.ts';
import { handleOn, startAgent } from '../../support/rigs/agent.ts';

async function withAgent(work: (agent: AgentClient) => Promise<void>): Promise<void> {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  await agent.ready();
  try {
    await work(agent);
  } finally {
    agent.close();
    await ended;
  }
}

t.test('output, errors and statuses come back', (t) =>
  withAgent(async (agent) => {
    const end = await agent.exec(['sh', '-c', 'echo out; echo err >&2; exit 3']);
    t.equal(end.stdout.toString(), 'out\n');
    t.equal(end.stderr.toString(), 'err\n');
    t.equal(end.exitCode, 3);
    t.equal((await agent.exec(['sh', '-c', 'kill -9 $$'])).exitCode, 128 + 9);
  }),
);

t.test('10 MiB of input come back as output', (t) =>
  withAgent(async (agent) => {
    const input = Buffer.alloc(10 * 2 ** 20);
    for (let i = 0; i < input.length; i += 4) input.writeUInt32LE((i * 2654435761) % 2 ** 32, i);
    const { stdout } = await agent.exec(['cat'], { input });
    t.ok(stdout.equals(input));
  }),
);

t.test('environment and directory', (t) =>
  withAgent(async (agent) => {
    const options = { env: { WORD: 'grün' }, cwd: '/usr' };
    const { stdout } = await agent.exec(['sh', '-c', 'echo "$WORD"; pwd'], options);
    t.equal(stdout.toString(), 'grün\n/usr\n');
  }),
);

t.test('a command that cannot be started fails with the reason', (t) =>
  withAgent(async (agent) => {
    await t.rejects(agent.exec(['/no/such/program']), { code: 'ENOENT' });
    await t.rejects(agent.exec(['sh'], { cwd: '/no/such/folder' }), { code: 'ENOENT' });
    await t.rejects(agent.exec(['/etc/passwd']), { code: 'EACCES' });
    t.throws(() => agent.spawn([]), { code: 'E_ARGV' });
    t.throws(() => agent.spawn(['a\0b']), { code: 'E_ARGV' });
    t.throws(() => agent.spawn(['x'.repeat(protocol.FRAME_MAX)]), { code: 'E2BIG' });
  }),
);

t.test('unread output blocks no other command', (t) =>
  withAgent(async (agent) => {
    const flood = agent.spawn(['sh', '-c', 'head -c 4000000 /dev/zero']);
    await flood.started;
    t.equal((await agent.exec(['echo', 'alongside'])).stdout.toString(), 'alongside\n');
    let bytes = 0;
    for await (const chunk of flood.stdout) bytes += (chunk as Buffer).length;
    t.equal(bytes, 4_000_000, 'and is whole when it is read at last');
    t.equal((await flood.exit).exitCode, 0);
  }),
);

t.test('output whose reader has left is dropped', (t) =>
  withAgent(async (agent) => {
    const command = agent.spawn(['head', '-c', '4000000', '/dev/zero']);
    command.stdout.destroy();
    t.equal((await command.exit).exitCode, 0);
  }),
);

t.test('input that the command does not read is dropped', (t) =>
  withAgent(async (agent) => {
    const { stdout } = await agent.exec(['head', '-c', '5'], { input: 'x'.repeat(4_000_000) });
    t.equal(stdout.toString(), 'xxxxx');
  }),
);

t.test('a background process does not hold up the end', (t) =>
  withAgent(async (agent) => {
    const { stdout } = await agent.exec(['sh', '-c', 'sleep 1000 & echo $!']);
    await agent.exec(['kill', '-9', stdout.toString().trim()]);
    t.match(stdout.toString(), /^\d+\n$/);
  }),
);

t.test('signals reach the process group', (t) =>
  withAgent(async (agent) => {
    // The end shows only when both have gone: `sleep` holds the output too. Not SIGINT, which a
    // shell keeps from its background and may take note of just before it starts a program.
    const command = agent.spawn(['sh', '-c', 'sleep 1000 & echo up; wait']);
    await once(command.stdout, 'data');
    command.kill('SIGTERM');
    t.same(await command.exit, { exitCode: 143, signal: 'SIGTERM' });
  }),
);

t.test('a terminal has a size, and is notified of a new one', (t) =>
  withAgent(async (agent) => {
    const script = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.01; done";
    const tty = { columns: 100, rows: 30 };
    const command = agent.spawn(['sh', '-c', script], { tty });
    let text = '';
    command.stdout.on('data', (chunk: Buffer) => {
      if (text === '') command.resize(120, 40);
      text += chunk.toString();
    });
    await once(command.stdout, 'end');
    t.equal((await command.exit).exitCode, 0);
    t.equal(text, '30 100\r\n40 120\r\n');
  }),
);

t.test('what an agent runs is as ready to be killed for memory as the agent was', (t) =>
  withAgent(async (agent) => {
    const inherited = readFileSync('/proc/self/oom_score_adj', 'utf8');
    const { stdout } = await agent.exec([
      'sh',
      '-c',
      'cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj',
    ]);
    const [own, agents] = stdout.toString().trim().split('\n');
    t.equal(own, inherited.trim());
    // Where the tests may not lower it, it stays.
    t.ok(agents === '-1000' || agents === own, `the agent's is ${agents}`);
  }),
);

t.test('an agent that is killed takes its commands along', async (t) => {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  const second = agent.spawn(['sleep', '1000']);
  const pid = await second.started;
  await t.rejects(agent.exec(['sh', '-c', 'kill -9 $PPID; exec sleep 1000']), {
    code: 'E_AGENT_GONE',
  });
  await t.rejects(second.exit, { code: 'E_AGENT_GONE' });
  await ended;
  const lives = (): boolean => {
    try {
      process.kill(pid, 0);
      return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
    } catch {
      return false;
    }
  };
  while (lives()) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(agent.ended, true);
});

t.test('a new client finds its way after one that left in the middle of a frame', async (t) => {
  const { stream, ended } = await startAgent();
  const first = new AgentClient(handleOn(stream));
  await first.ready();
  const running = first.spawn(['sleep', '1000']);
  const pid = await running.started;
  const frame = protocol.encodeFrame(protocol.FRAME_STDIN, 1, Buffer.alloc(100_000));
  stream.write(frame.subarray(0, 50_000));
  stream.removeAllListeners('data');
  const second = new AgentClient(stream, { helloRetryMs: 1 });
  await second.ready();
  t.equal((await second.exec(['echo', 'again'])).stdout.toString(), 'again\n');
  t.not((await second.exec(['kill', '-0', String(pid)])).exitCode, 0, 'the old command is killed');
  second.close();
  await ended;
});

t.test('an agent of another version, a broken frame, and an end are distinguished', async (t) => {
  const fake = (answer: (nonce: Buffer) => Buffer): Duplex => {
    const stream: Duplex = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        const nonce = protocol.decodeHello(chunk.subarray(protocol.FRAME_HEADER));
        if (nonce !== undefined) stream.push(answer(nonce));
        done();
      },
    });
    return stream;
  };
  const other = new AgentClient(fake((nonce) => protocol.encodeHelloReply(nonce, 99)));
  await t.rejects(other.ready(), { code: 'E_AGENT_VERSION' });
  const broken = new AgentClient(
    fake((nonce) =>
      Buffer.concat([
        protocol.encodeHelloReply(nonce, protocol.AGENT_VERSION),
        Buffer.alloc(protocol.FRAME_HEADER, 0xff),
      ]),
    ),
  );
  await broken.ready();
  t.equal((await broken.closed).code, 'E_AGENT_PROTOCOL');
  t.throws(() => broken.spawn(['true']), { code: 'E_AGENT_PROTOCOL' });
  const frames = (...sent: Buffer[]): AgentClient =>
    new AgentClient(
      fake((nonce) =>
        Buffer.concat([protocol.encodeHelloReply(nonce, protocol.AGENT_VERSION), ...sent]),
      ),
    );
  const short = frames(protocol.encodeFrame(protocol.FRAME_CREDIT, 1, Buffer.alloc(2)));
  short.spawn(['true']);
  t.equal((await short.closed).code, 'E_AGENT_PROTOCOL', 'a payload that is too short');
  const much = Array.from({ length: 3 }, () =>
    protocol.encodeFrame(protocol.FRAME_STDOUT, 1, Buffer.alloc(protocol.FRAME_MAX)),
  );
  const greedy = frames(...much);
  greedy.spawn(['true']);
  t.equal((await greedy.closed).code, 'E_AGENT_PROTOCOL', 'output beyond its window');
  const gone = fake(() => Buffer.alloc(0));
  const waiting = new AgentClient(gone);
  const command = waiting.spawn(['true']);
  gone.destroy();
  await t.rejects(waiting.ready(), { code: 'E_AGENT_GONE' });
  await t.rejects(command.exit, { code: 'E_AGENT_GONE' });
});
