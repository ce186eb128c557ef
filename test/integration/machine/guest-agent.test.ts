/** Commands in a guest whose agents, the real one as processes of this host, come and go. */
import { once } from 'node:events';
import { Duplex } from 'node:stream';
import t from 'tap';
import { GuestAgent, guestEnded } from '../../../src/machine/guest-agent.ts';
import { type AgentRig, startAgent } from '../../support/rigs/agent.ts';

/** A console port: what comes and goes behind it shows as it does in a machine. */
class FakePort extends Duplex {
  guestOpen = false;
  #agent: AgentRig | undefined;
  #waiting: (() => void)[] = [];

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const pass = (): void => void this.#agent?.stream.write(chunk, () => done());
    if (this.guestOpen) pass();
    else this.#waiting.push(pass);
  }

  /** A program in the guest opens the port. */
  async open(): Promise<void> {
    const agent = await startAgent();
    this.#agent = agent;
    agent.stream.on('data', (chunk: Buffer) => this.push(chunk));
    agent.stream.on('error', () => {});
    this.guestOpen = true;
    this.emit('guestOpen', true);
    for (const pass of this.#waiting.splice(0)) pass();
  }

  /** The agent is killed, or its machine reset. */
  async close(): Promise<void> {
    const agent = this.#agent;
    agent?.stream.removeAllListeners('data');
    agent?.stream.destroy();
    this.guestOpen = false;
    this.emit('guestOpen', false);
    await agent?.ended;
  }
}

const NEVER = 2 ** 30;

async function echo(guest: GuestAgent, text: string): Promise<string> {
  return (await guest.connect().exec(['echo', text])).stdout.toString();
}

t.test('a command waits for the agent; the same conversation serves the next one', async (t) => {
  const port = new FakePort();
  const guest = new GuestAgent(port);
  const first = echo(guest, 'first');
  const client = guest.connect();
  await port.open();
  t.equal(await first, 'first\n');
  t.equal(await echo(guest, 'second'), 'second\n');
  t.equal(guest.connect(), client);
  guest.guestEnded(guestEnded({ reason: 'stopped' }));
  await port.close();
});

t.test(
  'an agent that dies: its commands fail, and the next one is run by its successor',
  async (t) => {
    const port = new FakePort();
    const guest = new GuestAgent(port, NEVER);
    const idle = port.listenerCount('guestOpen');
    await port.open();
    for (let i = 0; i < 3; i++) {
      const running = guest.connect().spawn(['sleep', '1000']);
      await running.started;
      const lost = t.rejects(running.exit, { code: 'E_AGENT_RESTARTED', message: /^[^\n]+$/ });
      const closed = port.close();
      const next = echo(guest, `again ${i}`);
      await closed;
      await port.open();
      await lost;
      t.equal(await next, `again ${i}\n`, 'also one that came while there was no agent');
      t.equal(await echo(guest, 'and'), 'and\n');
    }
    t.equal(port.listenerCount('data'), 1, 'nothing is left of those that ended');
    t.equal(port.listenerCount('guestOpen'), idle + 1);
    guest.guestEnded(guestEnded({ reason: 'stopped' }));
    t.equal(port.listenerCount('data'), 0);
    await port.close();
  },
);

t.test('an agent that dies in mid-frame', async (t) => {
  const port = new FakePort();
  const guest = new GuestAgent(port, NEVER);
  await port.open();
  await guest.connect().ready();
  const lost = t.rejects(guest.connect().exec(['sleep', '1000']), { code: 'E_AGENT_RESTARTED' });
  // The beginning of a frame of 100 bytes.
  port.push(Buffer.from([18, 1, 0, 0, 0, 100, 0, 0, 0, 1, 2, 3]));
  await port.close();
  await port.open();
  await lost;
  t.equal(await echo(guest, 'in step'), 'in step\n');
  guest.guestEnded(guestEnded({ reason: 'stopped' }));
  await port.close();
});

t.test('an agent that dies and does not come back', async (t) => {
  const port = new FakePort();
  const guest = new GuestAgent(port, 0);
  await port.open();
  const lost = t.rejects(guest.connect().exec(['sleep', '1000']), {
    code: 'E_AGENT_GONE',
    message: /^the guest agent ended[^\n]+$/,
  });
  await guest.connect().ready();
  await port.close();
  await lost;
});

for (const [exit, says] of [
  [{ reason: 'power-off' }, /^the guest powered off before/],
  [{ reason: 'reboot' }, /^the guest rebooted before/],
  [{ reason: 'panic', detail: 'no init' }, /^the guest's kernel panicked \(no init\) before/],
  [{ reason: 'triple-fault', detail: 'vCPU 0: rip 0\nrax 1' }, /triple fault \(vCPU 0: rip 0\) be/],
  [{ reason: 'internal-error' }, /^the machine hit a KVM error before/],
  [{ reason: 'stopped' }, /^the machine was stopped before/],
] as const) {
  t.test(`the end of the guest: ${exit.reason}`, async (t) => {
    const port = new FakePort();
    const guest = new GuestAgent(port, NEVER);
    await port.open();
    await guest.connect().ready();
    const expected = { code: 'E_GUEST_ENDED', message: says };
    const running = t.rejects(guest.connect().exec(['sleep', '1000']), expected);
    // A guest that shuts down ends its agent first.
    await port.close();
    const waiting = t.rejects(guest.connect().exec(['true']), expected);
    guest.guestEnded(guestEnded(exit));
    await Promise.all([running, waiting]);
    t.equal(port.listenerCount('data'), 0);
  });
}

t.test('after a reboot the next command waits for the new agent', async (t) => {
  const port = new FakePort();
  const guest = new GuestAgent(port, NEVER);
  await port.open();
  t.equal(await echo(guest, 'before'), 'before\n');
  await port.close();
  guest.guestEnded(guestEnded({ reason: 'reboot' }));
  const next = echo(guest, 'after');
  await port.open();
  t.equal(await next, 'after\n');
  guest.guestEnded(guestEnded({ reason: 'stopped' }));
  const ended = once(port, 'close');
  port.destroy();
  await ended;
  await port.close();
});
