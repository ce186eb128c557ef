/**
 * The process in the lab that has a machine: `machine-host.js FILE MARK`. FILE holds the machine's options as JSON,
 * and is removed. It reports on its standard output, in a line after MARK, and ends with its standard input.
 */
import { readFileSync, unlinkSync } from 'node:fs';
import { LocalMachine } from '../local-machine.ts';
import type { MachineOptions } from '../options.ts';
import { encodeError } from './control-error.ts';
import type { ControlError } from './protocol.ts';
import { ControlServer, controlSocket } from './server.ts';

/** Where the machine is served, or why there is none. */
export type HostReport = { readonly socket: string } | { readonly error: ControlError };

const [, , file = '', mark = ''] = process.argv;

function report(line: HostReport): void {
  process.stdout.write(`${mark}${JSON.stringify(line)}\n`);
}

async function serve(): Promise<void> {
  const { name = String(process.pid), ...options } = JSON.parse(
    readFileSync(file, 'utf8'),
  ) as MachineOptions;
  unlinkSync(file);
  await using vm = await LocalMachine.create(options);
  using _server = await ControlServer.open(vm, name);
  report({ socket: controlSocket(name) });
  const ended = new Promise((resolve) => process.stdin.once('close', resolve));
  process.stdin.resume();
  await ended;
}

serve().then(
  () => process.exit(0),
  (error: unknown) => {
    report({ error: encodeError(error) });
    process.exitCode = 1;
  },
);
