/** The live view in a terminal: the alternate screen, keys, and the terminal restored on every way out. */
import type { ReadStream } from 'node:tty';
import { CleanupStack } from '../host/cleanup-stack.ts';
import { messageOf } from '../host/errors.ts';
import { type Activity, ActivityMeter, NO_ACTIVITY } from '../inspect/activity.ts';
import { drawMachine } from '../inspect/drawing/draw-machine.ts';
import type { Drawing } from '../inspect/drawing/drawing.ts';
import { type Inspector, type Selection, selectQueue } from '../inspect/page.ts';
import { terminalView } from '../inspect/terminal-view.ts';
import type { QueueOrder } from '../machine/control/protocol.ts';
import type { MachineInspection } from '../machine/inspect.ts';
import { signalStatus } from './exit-status.ts';
import { STOP_SIGNALS } from './stop-signals.ts';
import { RawTerminal } from './terminal/terminal.ts';

const PERIOD_MS = 250;
/** Alternate screen, no cursor. */
const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';
const ORDERS: Readonly<Record<string, QueueOrder>> = { h: 'hold', s: 'step', r: 'release' };
/** How far a key moves: devices, queues. */
const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  '\x1b[A': [-1, 0],
  '\x1b[B': [1, 0],
  '\x1b[C': [0, 1],
  '\x1b[D': [0, -1],
  '\t': [0, 1],
  k: [-1, 0],
  j: [1, 0],
};
/** A control sequence (ECMA-48 §5.4) or a character. */
const KEYS = /\p{Cc}\[[0-9;]*[A-Za-z~]|./gsu;

/** The user's terminal, both ways. */
export interface Terminal {
  readonly input: ReadStream;
  readonly output: NodeJS.WritableStream;
  /** Fetched for every refresh. */
  size(): { readonly columns: number; readonly rows: number } | undefined;
}

/**
 * Shows a machine until the user quits, or a signal ends it.
 * @returns the exit status
 */
export async function showInTerminal(machine: Inspector, terminal: Terminal): Promise<number> {
  const { input, output } = terminal;
  const view = new LiveView(machine, terminal);
  // The first request fails like any other command would, and not behind an alternate screen.
  await view.look();
  using cleanup = new CleanupStack();
  // Terminal output is complete when `write` returns.
  const leave = (): void => void output.write(LEAVE);
  process.on('exit', leave);
  cleanup.defer(() => {
    process.removeListener('exit', leave);
    leave();
  });
  cleanup.use(new RawTerminal(input));
  output.write(ENTER);
  return await new Promise((resolve) => {
    const timer = setInterval(() => void view.refresh(), PERIOD_MS);
    cleanup.defer(() => clearInterval(timer));
    for (const signal of STOP_SIGNALS) {
      const end = (): void => resolve(signalStatus(signal));
      process.on(signal, end);
      cleanup.defer(() => process.removeListener(signal, end));
    }
    const typed = (text: string): void => {
      for (const key of text.match(KEYS) ?? []) {
        if (key === 'q' || key === '\x03') resolve(0);
        else view.press(key);
      }
    };
    input.setEncoding('utf8').on('data', typed);
    cleanup.defer(() => {
      input.removeListener('data', typed);
      input.pause();
    });
    const resized = (): void => view.draw();
    output.on('resize', resized);
    cleanup.defer(() => output.removeListener('resize', resized));
    view.draw();
    // Later answers have no screen to go to.
    cleanup.defer(() => view.close());
  });
}

/** The current selection. */
class LiveView {
  readonly #machine: Inspector;
  readonly #terminal: Terminal;
  readonly #meter: ActivityMeter;
  #activity: Activity = NO_ACTIVITY;
  #inspection: MachineInspection = { state: '', devices: [], functions: [] };
  #selection: Selection | undefined;
  #notice = '';
  #looking = false;
  #lost = false;
  #open = true;
  /** The device's drawing instead of its rings. */
  #drawn = false;

  constructor(machine: Inspector, terminal: Terminal) {
    this.#machine = machine;
    this.#meter = new ActivityMeter(() => machine.counters());
    this.#terminal = terminal;
  }

  async look(): Promise<void> {
    const chosen = this.#selection;
    const filter =
      chosen === undefined || this.#drawn
        ? { device: '' }
        : { device: chosen.device, queue: String(chosen.queue) };
    this.#inspection = await this.#machine.inspect(filter);
    if (this.#drawn) this.#activity = await this.#meter.current();
    this.#selection ??= selectQueue(this.#inspection, undefined, undefined);
  }

  async refresh(): Promise<void> {
    // A machine that is slow to answer gets no further request meanwhile.
    if (this.#looking) return;
    this.#looking = true;
    try {
      await this.look();
      if (this.#lost) this.#notice = '';
      this.#lost = false;
    } catch (error) {
      this.#notice = messageOf(error);
      this.#lost = true;
    } finally {
      this.#looking = false;
    }
    this.draw();
  }

  press(key: string): void {
    const order = ORDERS[key];
    const move = MOVES[key];
    if (key === 'd') this.#toggleDrawing();
    else if (move !== undefined) this.#move(...move);
    else if (order !== undefined) void this.#order(order);
  }

  close(): void {
    this.#open = false;
  }

  draw(): void {
    if (!this.#open) return;
    const size = this.#terminal.size() ?? { columns: 80, rows: 24 };
    const lines = terminalView(
      this.#machine.name,
      this.#inspection,
      this.#selection,
      size,
      this.#notice,
      this.#drawing(),
      this.#activity.exits,
    );
    // In one write, so that no partial frame shows.
    this.#terminal.output.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`);
  }

  #drawing(): Drawing | undefined {
    if (!this.#drawn || this.#selection === undefined) return undefined;
    const facts = { drivers: this.#machine.drivers.known, activity: this.#activity };
    return drawMachine(this.#inspection, facts, this.#selection.device)[0];
  }

  #toggleDrawing(): void {
    this.#drawn = !this.#drawn;
    void this.refresh();
  }

  #move(devices: number, queues: number): void {
    const all = [...this.#inspection.devices, ...this.#inspection.functions];
    const at = all.findIndex(({ name }) => name === this.#selection?.device);
    const device = all[at + devices];
    if (device === undefined) return;
    const last = 'queues' in device ? Math.max(0, device.queues.length - 1) : 0;
    const queue = devices === 0 ? (this.#selection?.queue ?? 0) + queues : 0;
    this.#selection = { device: device.name, queue: Math.min(Math.max(queue, 0), last) };
    this.#notice = '';
    void this.refresh();
  }

  async #order(call: QueueOrder): Promise<void> {
    const chosen = this.#selection;
    if (chosen === undefined) return;
    try {
      await this.#machine.order(call, chosen.device, String(chosen.queue));
      this.#notice = '';
    } catch (error) {
      this.#notice = messageOf(error);
    }
    await this.refresh();
  }
}
