/** What is shown while a guest boots and its console is silent. */
import t from 'tap';
import { BootDisplay } from '../../../src/cli/run/boot-display.ts';
import type { ConsoleTarget } from '../../../src/cli/run/run-options.ts';
import { ConsoleOutput } from '../../../src/cli/terminal/console-io.ts';
import { FakeConsole, until } from '../../support/fakes/machine.ts';

function setUp(serialTarget: ConsoleTarget = { to: 'none' }) {
  const console = new FakeConsole();
  const port = new FakeConsole();
  const serial = new ConsoleOutput(port, undefined);
  const steps: string[] = [];
  const progress = {
    closed: 0,
    update: (step: string): void => void steps.push(step),
    close: (): void => void progress.closed++,
  };
  const clock = { now: 0 };
  const consoles = { console, serial, serialTarget };
  const display = new BootDisplay(consoles, progress, () => clock.now);
  const print = async (text: string): Promise<void> => {
    const { bytes } = serial;
    port.push(text);
    await until(() => serial.bytes > bytes);
  };
  return { console, steps, progress, clock, display, print };
}

t.test('a guest that talks on its serial port only', async (t) => {
  const { steps, clock, display, print } = setUp();
  await print('Loading...\r\n');
  display.look();
  t.same(steps, ['guest: booting'], 'not at once: consoles come late');
  clock.now = 6000;
  display.look();
  t.match(steps.at(-1), /nothing on hvc0 yet .*--serial tty.*ttyS0 says: Loading\.\.\.$/);
  await print('Choose a language\x1b[31m:\r\n\r\n');
  display.look();
  t.match(steps.at(-1), /ttyS0 says: Choose a language\\x1b\[31m:$/, 'its last line, printable');
  display[Symbol.dispose]();
});

t.test('where its serial port goes to a file', async (t) => {
  const { steps, clock, display, print } = setUp({ to: 'file', path: 'boot.log' });
  await print('x');
  clock.now = 6000;
  display.look();
  t.match(steps.at(-1), /see boot\.log/);
  display[Symbol.dispose]();
});

t.test('a guest without any output', async (t) => {
  const { steps, clock, display } = setUp();
  clock.now = 60_000;
  display.look();
  t.same(steps, ['guest: booting']);
  display[Symbol.dispose]();
});

t.test('the console’s first byte ends it', async (t) => {
  const { console, progress, display } = setUp();
  console.resume();
  console.push('[    0.0] Linux version\r\n');
  await until(() => progress.closed > 0);
  display[Symbol.dispose]();
  t.ok(progress.closed > 0);
  t.equal(console.listenerCount('data'), 0);
});
