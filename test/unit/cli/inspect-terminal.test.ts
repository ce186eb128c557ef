/** The live view in a terminal: keys, refusals, and the terminal as it was afterwards. */
import { PassThrough } from 'node:stream';
import type { ReadStream } from 'node:tty';
import t from 'tap';
import { showInTerminal } from '../../../src/cli/inspect-terminal.ts';
import { UsageError } from '../../../src/host/errors.ts';
import { GuestDrivers } from '../../../src/inspect/guest-drivers.ts';
import type { Inspector } from '../../../src/inspect/page.ts';
import { anInspection, someCounters } from '../../support/fixtures/inspection.ts';

class FakeTerminal {
  readonly keys = new PassThrough();
  readonly output = new PassThrough();
  readonly raw: boolean[] = [];
  readonly input: ReadStream = Object.assign(this.keys, {
    setRawMode: (on: boolean) => void this.raw.push(on),
  }) as unknown as ReadStream;
  screen = '';
  #changed: () => void = () => {};

  constructor() {
    this.output.setEncoding('utf8').on('data', (text: string) => {
      this.screen += text;
      this.#changed();
    });
  }
  size() {
    return { columns: 100, rows: 30 };
  }
  type(keys: string): void {
    this.screen = '';
    this.keys.write(keys);
  }
  async shows(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.screen)) {
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }
}

const orders: string[] = [];
const filters: unknown[] = [];
const machine: Inspector = {
  name: 'web',
  drivers: new GuestDrivers(async () => new Map()),
  inspect: async (filter) => {
    filters.push(filter);
    return anInspection();
  },
  counters: async () => someCounters(),
  order: async (call, device, queue) => {
    if (call === 'release') throw new UsageError('E_HELD', 'web: not now');
    orders.push(`${call} ${device} ${queue}`);
  },
};

t.test('keys choose, order and leave', async (t) => {
  const terminal = new FakeTerminal();
  const shown = showInTerminal(machine, terminal);
  await terminal.shows(/> busy0.*split, 8 entries/s);
  t.match(terminal.screen, '\x1b[?1049h');
  terminal.type('\x1b[C');
  await terminal.shows(/busy0 q1.*packed, 8 entries/s);
  t.match(filters.at(-1), { device: 'busy0', queue: '1' });
  terminal.type('hs');
  terminal.type('r');
  await terminal.shows(/web: not now/);
  t.same(orders, ['hold busy0 1', 'step busy0 1']);
  terminal.type('\x1b[A');
  await terminal.shows(/> idle0.*not enabled/s);
  terminal.type('jj\x1b[C');
  await terminal.shows(/> vfio0.*BAR 0/s);
  terminal.type('d');
  await terminal.shows(/vfio0: PCI function 1b36:0010.*guest kernel.*rings/s);
  t.match(filters.at(-1), { device: '' }, 'no rings are needed');
  terminal.type('d');
  await terminal.shows(/> vfio0.*BAR 0/s);
  terminal.type('q');
  t.equal(await shown, 0);
  t.ok(terminal.screen.endsWith('\x1b[?25h\x1b[?1049l'), 'the screen from before');
  t.same(terminal.raw, [true, false]);
});

t.test('a signal leaves, too, with its status', async (t) => {
  const terminal = new FakeTerminal();
  const before = process.listenerCount('SIGHUP');
  const shown = showInTerminal(machine, terminal);
  await terminal.shows(/busy0/);
  process.kill(process.pid, 'SIGHUP');
  t.equal(await shown, 129);
  t.same(terminal.raw, [true, false]);
  t.ok(terminal.screen.endsWith('\x1b[?25h\x1b[?1049l'));
  t.equal(process.listenerCount('SIGHUP'), before);
});

t.test('a machine that is not there does not touch the terminal', async (t) => {
  const terminal = new FakeTerminal();
  const gone: Inspector = {
    ...machine,
    inspect: async () => {
      throw new UsageError('E_NAME', 'no machine named web is running');
    },
  };
  await t.rejects(showInTerminal(gone, terminal), { code: 'E_NAME' });
  t.same([terminal.screen, terminal.raw], ['', []]);
});
