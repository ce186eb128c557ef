/** `nodevmm inspect`: the state of a running machine's devices and queues. */
import { Option } from 'commander';
import { UsageError } from '../host/errors.ts';
import { type MachineCounters, totalActivity } from '../inspect/activity.ts';
import { drawMachine } from '../inspect/drawing/draw-machine.ts';
import { drawSvgFile } from '../inspect/drawing/svg.ts';
import { drawText } from '../inspect/drawing/text.ts';
import { askDrivers, type GuestDriverMap, GuestDrivers } from '../inspect/guest-drivers.ts';
import type { Inspector } from '../inspect/page.ts';
import { InspectServer } from '../inspect/web-server.ts';
import { ask, askInspection, onlyMachine, question, socketOf } from '../machine/control/client.ts';
import { QUEUE_ORDERS } from '../machine/control/protocol.ts';
import { connectMachine } from '../machine/control/remote-machine.ts';
import type { MachineMetrics } from '../machine/machine.ts';
import { given } from '../options/option-schema.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import { EXIT_OK, type RegisterCommand, signalStatus } from './exit-status.ts';
import { showInTerminal } from './inspect-terminal.ts';
import { STOP_SIGNALS } from './stop-signals.ts';
import { terminalInput, terminalSize } from './terminal/terminal.ts';

const EXAMPLES = `
Examples:
  nodevmm inspect                               live, in this terminal
  nodevmm inspect --web                         live, as a page for a browser on this host
  nodevmm inspect --json                        every device, feature and ring, as it is now
  nodevmm inspect web --json --device net0      the rings of one device, in the machine called web
  nodevmm inspect --drawing text                who serves each device, in which space, and by what steps
  nodevmm inspect --drawing svg --device net0 >net0.svg
  nodevmm inspect --hold blk0:requestq1         the disk takes no request any more
  nodevmm inspect --step blk0:requestq1         it takes one more
  nodevmm inspect --release blk0:requestq1      it goes on

Machines in the lab are looked at in the lab: nodevmm lab -- npx nodevmm inspect`;

/** Without a terminal. */
const COLUMNS = 120;

/** A queue as the user names it. */
interface QueueName {
  readonly device: string;
  readonly queue: string;
}

/** Command-line options of `inspect`, as commander fills them in. */
interface InspectFlags {
  readonly json?: boolean;
  readonly drawing?: 'text' | 'svg';
  readonly web?: boolean;
  readonly port?: number;
  readonly device?: string;
  readonly queue?: string;
  readonly hold?: QueueName;
  readonly step?: QueueName;
  readonly release?: QueueName;
}

/** Adds `inspect`. */
export const registerInspectCommand: RegisterCommand = (program, finish) => {
  const order = (flag: string, description: string): Option =>
    new Option(`--${flag} <device:queue>`, description).argParser(parseQueue).conflicts('json');
  program
    .command('inspect')
    .description('look at the devices and queues of a running machine')
    .argument('[machine]', 'its --name, or else its process id; optional when only one is running')
    .option('--web', 'serve it as a page, on loopback only')
    .addOption(
      new Option('--port <number>', 'port of the page; default: a free one').argParser(parsePort),
    )
    .option('--json', 'print a snapshot, and exit; the default without a terminal')
    .addOption(
      new Option('--drawing <format>', 'print how each device is served, and exit')
        .choices(['text', 'svg'])
        .conflicts(['json', 'web']),
    )
    .option('--device <name>', 'the rings of this device only, e.g. net0')
    .option('--queue <name>', 'the rings of this queue only, by name or index')
    .addOption(order('hold', 'stop the device from taking buffers from this queue, and exit'))
    .addOption(order('step', 'let it take one more, and exit'))
    .addOption(order('release', 'let it continue, and exit'))
    .addHelpText('after', EXAMPLES)
    .action(async (machine: string | undefined, flags: InspectFlags) => {
      const name = machine ?? (await onlyMachine());
      finish(await show(name, flags));
    });
};

/** @returns the exit status */
async function show(name: string, flags: InspectFlags): Promise<number> {
  if (await obey(name, flags)) return EXIT_OK;
  const machine: Inspector = {
    name,
    inspect: (filter) => askInspection(name, filter),
    order: async (call, device, queue) => void (await ask(name, { call, device, queue })),
    drivers: new GuestDrivers(() => driversOf(name)),
    counters: () => countersOf(name),
  };
  if (flags.drawing !== undefined) return await draw(machine, flags.drawing, flags.device);
  if (flags.web === true) return await serve(machine, flags.port ?? 0);
  const terminal = terminalInput();
  const narrowed = flags.device !== undefined || flags.queue !== undefined;
  if (flags.json !== true && !narrowed && terminal !== undefined && terminalSize() !== undefined) {
    return await showInTerminal(machine, {
      input: terminal,
      output: process.stdout,
      size: terminalSize,
    });
  }
  const inspection = await machine.inspect(given({ device: flags.device, queue: flags.queue }));
  process.stdout.write(`${JSON.stringify(inspection, null, 2)}\n`);
  return EXIT_OK;
}

/** @param only the name of a device */
async function draw(
  machine: Inspector,
  format: 'text' | 'svg',
  only: string | undefined,
): Promise<number> {
  const inspection = await machine.inspect(only === undefined ? { device: '' } : { device: only });
  await machine.drivers.refresh();
  const activity = totalActivity(await machine.counters());
  const drawings = drawMachine(inspection, { drivers: machine.drivers.known, activity }, only);
  if (format === 'svg') process.stdout.write(drawSvgFile(drawings));
  else {
    const columns = terminalSize()?.columns ?? COLUMNS;
    const texts = drawings.map((drawing) => `${drawText(drawing, columns).join('\n')}\n`);
    process.stdout.write(`${texts.join('\n')}\n${activity.exits} since power-on\n`);
  }
  return EXIT_OK;
}

async function countersOf(name: string): Promise<MachineCounters> {
  const address = socketOf(name);
  const metrics = (await question(address, { call: 'metrics' })) as MachineMetrics;
  const trace = (await question(address, { call: 'traceSummary' })) as TraceSummary | null;
  return { metrics, ...(trace === null ? {} : { trace }) };
}

async function driversOf(name: string): Promise<GuestDriverMap> {
  await using machine = await connectMachine(name);
  return await askDrivers(machine);
}

/** Until a signal ends it. */
async function serve(machine: Inspector, port: number): Promise<number> {
  // No address is printed that shows nothing.
  await machine.inspect({ device: '' });
  using server = await InspectServer.open(machine, port);
  process.stdout.write(`${server.url}\n`);
  return await new Promise((resolve) => {
    for (const signal of STOP_SIGNALS) process.once(signal, () => resolve(signalStatus(signal)));
  });
}

/** Carries out the requested commands. @returns false when there are none */
async function obey(name: string, flags: InspectFlags): Promise<boolean> {
  const orders = QUEUE_ORDERS.flatMap((call) => {
    const target = flags[call];
    return target === undefined ? [] : [{ call, ...target }];
  });
  for (const order of orders) await ask(name, order);
  return orders.length > 0;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (/^\d{1,5}$/.test(text) && port < 65536) return port;
  throw new UsageError('E_OPTION', `--port must be 0 to 65535, not ${text}`);
}

function parseQueue(text: string): QueueName {
  const [device, queue, ...rest] = text.split(':');
  if (!device || !queue || rest.length > 0) {
    throw new UsageError(
      'E_OPTION',
      `${text} names no queue`,
      'write device:queue, as in net0:transmitq1',
    );
  }
  return { device, queue };
}
