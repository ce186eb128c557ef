/** `nodevmm inspect`: what goes on in the devices and queues of a running machine. */
import { type Command, Option } from 'commander';
import { ask, askInspection, onlyMachine } from '../control/client.ts';
import { UsageError } from '../host/errors.ts';
import type { GateOrder } from '../machine/queue-holds.ts';

const EXAMPLES = `
Examples:
  nodevmm inspect --json                        every device, feature and ring, as it is now
  nodevmm inspect web --json --device net0      the rings of one device, in the machine called web
  nodevmm inspect --hold blk0:requestq1         the disk takes no request any more
  nodevmm inspect --step blk0:requestq1         it takes one more
  nodevmm inspect --release blk0:requestq1      it goes on

Machines in the lab are looked at in the lab: nodevmm lab -- npx nodevmm inspect --json`;

/** A queue as a person names it. */
interface QueueName {
  readonly device: string;
  readonly queue: string;
}

/** Command-line options of `inspect`, as commander fills them in. */
interface InspectFlags {
  readonly json?: boolean;
  readonly device?: string;
  readonly queue?: string;
  readonly hold?: QueueName;
  readonly step?: QueueName;
  readonly release?: QueueName;
}

const ORDERS: readonly GateOrder[] = ['hold', 'step', 'release'];

/**
 * Adds `inspect`.
 * @param finish gets the exit status
 */
export function registerInspectCommand(program: Command, finish: (status: number) => void): void {
  const order = (flag: string, description: string): Option =>
    new Option(`--${flag} <device:queue>`, description).argParser(parseQueue).conflicts('json');
  program
    .command('inspect')
    .description('look at the devices and queues of a running machine')
    .argument('[machine]', 'its --name, else its process id; may be left out when only one runs')
    .option('--json', 'print what is there now, and end')
    .option('--device <name>', 'the rings of this device only, e.g. net0')
    .option('--queue <name>', 'the rings of this queue only, by name or index')
    .addOption(order('hold', 'have the device take no buffer from this queue, and end'))
    .addOption(order('step', 'have it take one more, and end'))
    .addOption(order('release', 'let it go on, and end'))
    .addHelpText('after', EXAMPLES)
    .action(async (machine: string | undefined, flags: InspectFlags) => {
      const name = machine ?? (await onlyMachine());
      if (!(await obey(name, flags))) await printSnapshot(name, flags);
      finish(0);
    });
}

/** Gives the orders that there are. @returns false when there are none */
async function obey(name: string, flags: InspectFlags): Promise<boolean> {
  const orders = ORDERS.flatMap((call) => {
    const target = flags[call];
    return target === undefined ? [] : [{ call, ...target }];
  });
  for (const order of orders) await ask(name, order);
  return orders.length > 0;
}

async function printSnapshot(name: string, { device, queue }: InspectFlags): Promise<void> {
  const inspection = await askInspection(name, {
    ...(device === undefined ? {} : { device }),
    ...(queue === undefined ? {} : { queue }),
  });
  process.stdout.write(`${JSON.stringify(inspection, null, 2)}\n`);
}

function parseQueue(text: string): QueueName {
  const [device, queue, ...rest] = text.split(':');
  if (!device || !queue || rest.length > 0) {
    throw new UsageError(
      'E_OPTION',
      `${text} names no queue; write device:queue, as in net0:transmitq1`,
    );
  }
  return { device, queue };
}
