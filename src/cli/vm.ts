/** `nodevmm vm`: queries and controls machines that run in other processes. */
import { Argument, InvalidArgumentError } from 'commander';
import { CleanupStack } from '../host/cleanup-stack.ts';
import { printable } from '../host/untrusted-text.ts';
import type { BalloonStatistics } from '../machine/balloon.ts';
import { ask, listMachines, onlyMachine, shutDown } from '../machine/control/client.ts';
import { type ControlOrder, DATAPATHS, type MachineStatus } from '../machine/control/protocol.ts';
import { connectMachine } from '../machine/control/remote-machine.ts';
import type { DatapathName } from '../machine/devices/queue-service.ts';
import { MiB } from '../memory/ram-layout.ts';
import { type RegisterCommand, signalStatus } from './exit-status.ts';
import { addedTypes, parseAddition } from './run/device-options.ts';
import { parseCount, parseMemory } from './run/run-options.ts';
import { StopSignals } from './stop-signals.ts';
import { streamCommand, terminalOf } from './terminal/command-io.ts';
import { PROCESS_STREAMS } from './terminal/console-io.ts';
import { aligned } from './terminal/text-table.ts';

const EXAMPLES = `
Examples:
  nodevmm vm list
  nodevmm vm status
  nodevmm vm statistics                 exits by cause, halts, interrupts, as KVM counts them
  nodevmm vm exec -- dmesg              a command in its guest, beside what else runs there
  nodevmm vm move net0 vhost            the host kernel moves its packets from now on
  nodevmm vm --vm web move net0 userspace
  nodevmm vm link net0 down
  nodevmm vm resize blk0 20G            its file grows, and the guest is notified
  nodevmm vm balloon 256M               the guest keeps that much of its RAM; the host gets the rest
  nodevmm vm add disk data.raw,ro       prints its name, as blk1; docs/hotplug.md
  nodevmm vm remove blk1
  nodevmm vm wake                       a guest that sleeps in RAM
  nodevmm vm cpus 4                     up to the --max-cpus of its run
  nodevmm vm memory 4G                  its RAM grows, up to that of its memory device
  nodevmm vm shutdown                   presses the power button, and waits for the guest to obey

A machine is called by its --name, else by its process id; with only one running, --vm may be left out.
Machines in the lab answer in the lab: nodevmm lab -- npx nodevmm vm list`;

/** Adds `vm`. */
export const registerVmCommand: RegisterCommand = (program, finish) => {
  const vm = program
    .command('vm')
    .description('list and control running machines')
    .option('--vm <name>', 'which machine')
    .addHelpText('after', EXAMPLES);
  const chosen = async (): Promise<string> =>
    vm.opts<{ vm?: string }>().vm ?? (await onlyMachine());
  const call = async (request: ControlOrder): Promise<MachineStatus> =>
    await ask(await chosen(), request);
  const order = async (request: ControlOrder): Promise<void> => {
    process.stdout.write(printable(describe(await call(request))));
    finish(0);
  };
  vm.command('list')
    .description('list running machines')
    .option('--json', 'as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const machines = await listMachines();
      const text =
        json === true ? `${JSON.stringify(machines)}\n` : machines.map(describe).join('');
      process.stdout.write(printable(text));
      finish(0);
    });
  vm.command('status')
    .description('state of a machine, and where its queues are served')
    .action(() => order({ call: 'status' }));
  vm.command('statistics')
    .description("KVM's counters of its vCPUs since power-on")
    .option('--json', 'as JSON, with the counters that are 0')
    .action(async ({ json }: { json?: boolean }) => {
      const { statistics } = await call({ call: 'status' });
      const counted = Object.entries(statistics).filter(([, count]) => count > 0);
      const rows = counted.map(([name, count]) => [name, String(count)]);
      const text = json === true ? JSON.stringify(statistics) : aligned(rows).join('\n');
      process.stdout.write(`${printable(text)}\n`);
      finish(0);
    });
  vm.command('exec')
    .description('run a command in the guest of a machine, with its exit status')
    .argument('<command...>', 'after --: a program in the guest, and its arguments')
    .action(async (argv: string[]) => finish(await execute(await chosen(), argv)));
  vm.command('move')
    .description('move the queues of a device to another datapath, also under traffic')
    .argument('<device>', 'e.g. net0')
    .addArgument(new Argument('<place>', 'where').choices([...DATAPATHS]))
    .action((device: string, datapath: DatapathName) => order({ call: 'move', device, datapath }));
  vm.command('link')
    .description('pull the cable of a network interface, or plug it in')
    .argument('<device>', 'e.g. net0')
    .addArgument(new Argument('<state>', 'the cable').choices(['up', 'down']))
    .action((device: string, state: string) => order({ call: 'link', device, up: state === 'up' }));
  vm.command('resize')
    .description('grow a disk under its guest, with its file')
    .argument('<device>', 'e.g. blk0')
    .argument(
      '[size]',
      'e.g. 20G; without one: that of its file or block device by now',
      parseMemory,
    )
    .action((device: string, bytes: number | undefined) =>
      order({ call: 'resizeDisk', device, ...(bytes === undefined ? {} : { bytes }) }),
    );
  vm.command('balloon')
    .description(
      'how much of its RAM a guest keeps; without a size, how much that is, and what it reports',
    )
    .argument('[size]', 'e.g. 256M', parseMemory)
    .action(async (size?: number) => {
      if (size !== undefined) return await order({ call: 'balloon', target: size });
      await using machine = await connectMachine(await chosen());
      process.stdout.write(balloonText(await machine.balloon.statistics()));
      finish(0);
    });
  vm.command('add')
    .description('add a device to a running machine, and print its name')
    .addArgument(new Argument('<type>', 'of the device').choices(addedTypes()))
    .argument('[options]', 'what follows --disk, --net, and the like of run')
    .action(async (type: string, text: string | undefined) => {
      await using machine = await connectMachine(await chosen());
      process.stdout.write(`${await machine.addDevice(parseAddition(type, text))}\n`);
      finish(0);
    });
  vm.command('remove')
    .description('have the guest give up a device, and remove it')
    .argument('<device>', 'e.g. blk1')
    .option('--force', 'take it away in any case')
    .option(
      '--timeout <seconds>',
      'how long the guest may take (default: 30; with --force: 2; 0: it is not asked)',
      parseSeconds,
    )
    .action((device: string, { force = false, timeout }: { force?: boolean; timeout?: number }) => {
      const limit = timeout === undefined ? {} : { timeout: timeout * 1000 };
      return order({ call: 'removeDevice', device, surprise: force, ...limit });
    });
  vm.command('cpus')
    .description('change how many vCPUs the guest has')
    .argument('<count>', 'up to --max-cpus', parseCount)
    .option('--timeout <seconds>', 'how long the guest may take to give some up', parseSeconds, 30)
    .action((count: number, { timeout }: { timeout: number }) =>
      order({ call: 'setCpus', count, timeout: timeout * 1000 }),
    );
  vm.command('memory')
    .description(
      'have the RAM of a guest with a memory device grow or shrink; without a size, how much it is',
    )
    .argument('[size]', 'e.g. 4G', parseMemory)
    .action(async (size?: number) => {
      const request =
        size === undefined ? ({ call: 'status' } as const) : ({ call: 'memory', size } as const);
      const { target, current, max } = (await call(request)).memory;
      const rows = Object.entries({ target, current, max }).map(([name, bytes]) => [
        name,
        inMiB(bytes),
      ]);
      process.stdout.write(`${aligned(rows).join('\n')}\n`);
      finish(0);
    });
  vm.command('shutdown')
    .description("press the power button, and wait until the guest's system has powered off")
    .option('--timeout <seconds>', 'how long it may take', parseSeconds, 60)
    .action(async ({ timeout }: { timeout: number }) => {
      await shutDown(await chosen(), timeout * 1000);
      finish(0);
    });
  for (const [call, description] of [
    ['pause', 'pause a machine'],
    ['resume', 'resume it'],
    ['stop', 'stop it, as if the power failed'],
    ['wake', 'wake its guest, which sleeps in RAM (S3)'],
  ] as const) {
    vm.command(call)
      .description(description)
      .action(() => order({ call }));
  }
  for (const [name, call, description] of [
    ['power-button', 'pressPowerButton', 'press its power button'],
    ['sleep-button', 'pressSleepButton', 'press its sleep button, which also wakes a guest'],
    ['renew-generation', 'renewGeneration', 'tell its guest that it is a copy (vmgenid)'],
  ] as const) {
    vm.command(name)
      .description(description)
      .action(() => order({ call }));
  }
};

const inMiB = (bytes: number): string => `${Math.round(bytes / MiB)} MiB`;

function balloonText({ target, current, guest = {} }: BalloonStatistics): string {
  const counts = new Set(['majorFaults', 'minorFaults', 'hugePagesAllocated', 'hugePagesFailed']);
  const rows = Object.entries({ target, current, ...guest }).map(([name, value]) => [
    name,
    counts.has(name) ? String(value) : inMiB(value),
  ]);
  return `${aligned(rows).join('\n')}\n`;
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (Number.isInteger(seconds) && seconds >= 0 && seconds <= 86_400) return seconds;
  throw new InvalidArgumentError('Takes whole seconds, at most 86400.');
}

/** @returns the command's exit status */
async function execute(name: string, argv: readonly string[]): Promise<number> {
  using cleanup = new CleanupStack();
  using signals = new StopSignals();
  await using machine = await connectMachine(name);
  const tty = terminalOf(PROCESS_STREAMS);
  const command = machine.spawn(argv, tty === undefined ? {} : { tty });
  const left = new Promise<number>((resolve) => {
    signals.watch(
      (signal) => resolve(signalStatus(signal)),
      () => cleanup.dispose(),
    );
  });
  const onQuit = (): void => command.kill('SIGKILL');
  const ran = streamCommand(command, PROCESS_STREAMS, { onQuit }, cleanup);
  // A command that is left is killed by the end of the connection.
  return await Promise.race([ran.then(({ exitCode }) => exitCode), left]);
}

/** One line. */
function describe({ name, pid, state, datapaths, exits, balloon }: MachineStatus): string {
  const places = Object.entries(datapaths).map(([device, place]) => `${device} ${place}`);
  const kept =
    balloon === undefined
      ? ''
      : `; balloon: the guest keeps ${Math.round(balloon.current / MiB)} MiB, target ${Math.round(balloon.target / MiB)} MiB`;
  return `${name}: process ${pid}, ${state}; ${places.join(', ')}; ${exits} exits to userspace${kept}\n`;
}
