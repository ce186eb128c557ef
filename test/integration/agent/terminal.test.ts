/** The end of input of a command with a terminal, by the real agent. */
import t, { type Test } from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const tty = { columns: 80, rows: 25 };
const { stream, ended } = await startAgent();
const agent = new AgentClient(stream);
await agent.ready();
t.teardown(async () => {
  agent.close();
  await ended;
});

/** What a script prints on a terminal whose input ends after `input`. */
async function run(t: Test, script: string, input: string): Promise<string> {
  const { stdout, exitCode } = await agent.exec(['sh', '-c', script], { tty, input });
  t.equal(exitCode, 0, script);
  return stdout.toString();
}

/** The same with input that comes once the script has printed `ready`. */
async function runReady(t: Test, script: string, input: string): Promise<string> {
  const command = agent.spawn(['sh', '-c', script], { tty });
  let text = '';
  let given = false;
  for await (const chunk of command.stdout) {
    text += String(chunk);
    if (given || !text.includes('ready')) continue;
    given = true;
    command.stdin.end(input);
  }
  t.equal((await command.exit).exitCode, 0, script);
  return text.slice(text.indexOf('ready'));
}

const lines = `${'x'.repeat(99)}\n`.repeat(1000);
for (const [what, input, bytes] of [
  ['nothing', '', 0],
  ['an empty line', '\n', 1],
  ['a line', 'a line\n', 7],
  ['half a line', 'half a line', 11],
  ['a line and a half', 'a line\nand a half', 17],
  ['more lines than the terminal holds', lines, lines.length],
  ['and half a line', `${lines}half`, lines.length + 4],
  ['as long a line as the terminal holds', 'x'.repeat(4095), 4095],
  // termios(3), canonical mode: what is beyond that is lost.
  ['a longer line', 'x'.repeat(10_000), 4095],
  ['half a line that ends with the character that quotes', 'half\x16', 5],
  ['a line that was taken back', 'half\x15', 0],
] as const) {
  t.test(`input ends after ${what}`, async (t) => {
    t.match(await run(t, 'n=$(wc -c); echo; echo "got $n"', input), `\ngot ${bytes}\r\n`);
  });
}

t.test('the end lasts: the next reader finds it, too', async (t) => {
  t.match(await run(t, 'cat; cat; echo; echo "got $(cat | wc -c)"', 'half a line'), '\ngot 0\r\n');
});

t.test('a program that reads late', async (t) => {
  t.match(await run(t, 'sleep 0.2; n=$(wc -c); echo; echo "got $n"', 'half'), '\ngot 4\r\n');
});

t.test('another EOF character', async (t) => {
  const script = 'stty eof \'^A\'; echo ready; n=$(wc -c); echo; echo "got $n"';
  t.match(await runReady(t, script, 'half'), '\ngot 4\r\n');
  t.match(await runReady(t, script, 'with \x04 in it\n'), '\ngot 13\r\n', 'then Ctrl-D is data');
});

t.test('another EOF character, taken after the input ended', async (t) => {
  const script = 'cat; stty eof \'^A\'; n=$(wc -c); echo; echo "got $n"';
  t.match(await run(t, script, ''), '\ngot 0\r\n');
});

t.test('a program that reads raw gets the character', async (t) => {
  const script = 'stty raw -echo; echo ready; dd bs=1 count=5 2>/dev/null | od -An -c';
  t.match(await runReady(t, script, 'half'), /ready\s+h +a +l +f +004/);
  const twice = 'stty raw -echo; echo ready; dd bs=1 count=6 2>/dev/null | od -An -c';
  t.match(await runReady(t, twice, 'half'), /ready\s+h +a +l +f +004 +004/, 'and again');
});

t.test('a program that reads raw, then another by lines', async (t) => {
  const script =
    'stty raw -echo; echo ready; dd bs=1 count=5 >/dev/null 2>&1; stty sane; echo "got $(wc -c)"';
  t.match(await runReady(t, script, 'half'), /got \d+\r\n/);
});

t.test('a program that does not wait for raw input has its own end', async (t) => {
  const script = 'stty raw -echo min 0 time 1; echo ready; cat; echo end';
  t.match(await runReady(t, script, ''), /end/);
});

t.test('a command that ends by itself, and one that is killed', async (t) => {
  t.match(await run(t, 'echo at once', 'half a line'), 'at once');
  const command = agent.spawn(['sleep', '1000'], { tty });
  command.stdin.end('half a line');
  await command.started;
  command.kill('SIGKILL');
  t.same(await command.exit, { exitCode: 137, signal: 'SIGKILL' });
});
