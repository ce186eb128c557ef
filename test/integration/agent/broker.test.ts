/** Several clients of one agent. */
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { AgentBroker } from '../../../src/agent/broker.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import { decodeReason, encodeFrame, encodeReason, FRAME_END } from '../../../src/agent/protocol.ts';
import { PeerError } from '../../../src/host/errors.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const STOPPED = new PeerError('E_STOPPED', 'the machine was stopped on request');

t.test('clients run commands side by side, and what one leaves is killed', async (t) => {
  const { stream, ended } = await startAgent();
  const shared = new AgentClient(stream);
  await shared.ready();
  const path = join(tmpdir(), `nodevmm-test-broker-${process.pid}`);
  const broker = new AgentBroker(shared, STOPPED);
  const server = createServer((client) => void broker.serve(client));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const first = new AgentClient(connect(path));
  const second = new AgentClient(connect(path), { shared: true });
  await Promise.all([first.ready(), second.ready()]);

  const input = Buffer.alloc(2 ** 20, 'nodevmm');
  const [a, b] = await Promise.all([
    first.exec(['cat'], { input }),
    second.exec(['sh', '-c', 'cat; exit 4'], { input }),
  ]);
  t.ok(a.stdout.equals(input) && b.stdout.equals(input), 'each gets its own bytes');
  t.same([a.exitCode, b.exitCode], [0, 4]);
  await t.rejects(first.exec(['/no/such']), { code: 'ENOENT' });

  const left = first.spawn(['sh', '-c', 'head -c 1000000 /dev/zero; sleep 1000']);
  const pid = String(await left.started);
  first.close();
  await t.rejects(left.exit, { code: 'E_AGENT_CLOSED' });
  // The broker's signal is on its way through the same agent: ask until it has come.
  const alive = async (): Promise<boolean> =>
    (await second.exec(['kill', '-0', pid])).exitCode === 0;
  while (await alive());
  t.equal((await second.exec(['echo', 'still'])).stdout.toString(), 'still\n');

  shared.close();
  t.equal((await second.closed).code, 'E_AGENT_CLOSED', 'the agent takes its clients along');
  server.close();
  await ended;
});

for (const [how, stops, expected] of [
  ['of itself', false, { code: 'E_GUEST_ENDED', message: 'the guest powered off' }],
  ['on request', true, { code: 'E_STOPPED', message: 'the machine was stopped on request' }],
] as const) {
  t.test(`clients get the reason when the machine ended ${how}`, async (t) => {
    const { stream, ended } = await startAgent();
    const why = new PeerError('E_GUEST_ENDED', 'the guest powered off');
    const shared = new AgentClient(stream, { whyEnded: async () => why });
    await shared.ready();
    const path = join(tmpdir(), `nodevmm-test-broker-end-${process.pid}`);
    const broker = new AgentBroker(shared, STOPPED);
    const server = createServer((client) => void broker.serve(client));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const first = new AgentClient(connect(path), { shared: true });
    const second = new AgentClient(connect(path), { shared: true });
    const running = second.spawn(['sleep', '1000']);
    await Promise.all([first.ready(), running.started]);
    if (stops) first.announceStop();
    // What was announced has come when the next command has run.
    await first.exec(['true']);
    stream.destroy();
    await t.rejects(running.exit, expected);
    t.match(await first.closed, expected);
    server.close();
    await ended;
  });
}

t.test('an agent that is not shared does not give the reason of its end', async (t) => {
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  await agent.ready();
  const reason = encodeReason(new PeerError('E_LAB_STOPPED', 'by no one'));
  stream.push(encodeFrame(FRAME_END, 0, reason));
  agent.announceStop();
  t.equal((await agent.exec(['echo', 'on'])).stdout.toString(), 'on\n');
  agent.close();
  await ended;
});

t.test('a reason reads back; what is none breaks the protocol', async (t) => {
  t.match(decodeReason(encodeReason(STOPPED)), { code: STOPPED.code, message: STOPPED.message });
  const long = decodeReason(encodeReason(new PeerError('E_LONG', 'x'.repeat(100_000))));
  t.ok(long.message.length <= 16 * 1024);
  for (const text of ['', 'E_X', 'E_X\0', '\0why', 'code\0why', 'E_\x1b[31m\0why']) {
    t.throws(() => decodeReason(Buffer.from(text)), { code: 'E_AGENT_PROTOCOL' });
  }
});
