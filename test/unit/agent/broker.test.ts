/** Several clients of one agent. */
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { AgentBroker } from '../../../src/agent/broker.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import { startAgent } from './rig.ts';

t.test('clients run commands side by side, and what one leaves is killed', async (t) => {
  const { stream, ended } = await startAgent();
  const shared = new AgentClient(stream);
  await shared.ready();
  const path = join(tmpdir(), `nodevmm-test-broker-${process.pid}`);
  const broker = new AgentBroker(shared);
  const server = createServer((client) => void broker.serve(client));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const first = new AgentClient(connect(path));
  const second = new AgentClient(connect(path));
  await Promise.all([first.ready(), second.ready()]);

  const input = Buffer.alloc(2 ** 20, 'nodevmm');
  const [a, b] = await Promise.all([
    first.exec(['cat'], { stdin: input }),
    second.exec(['sh', '-c', 'cat; exit 4'], { stdin: input }),
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
  t.equal((await second.closed).code, 'E_AGENT_GONE', 'the agent takes its clients along');
  server.close();
  await ended;
});
