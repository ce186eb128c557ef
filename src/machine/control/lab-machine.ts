/** A machine in the lab, for hosts without a usable KVM: a process there has it, and serves it. */
import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { GuestProcess } from '../../agent/command.ts';
import { connectUnix } from '../../agent/guest-connection.ts';
import { AsyncCleanupStack } from '../../host/cleanup-stack.ts';
import { PeerError } from '../../host/errors.ts';
import { type HeldLab, holdLab } from '../../lab/shared.ts';
import { bootFiles } from '../boot-image.ts';
import type { MachineOptions } from '../options.ts';
import { resolveOptions, writtenFolders } from '../resolve-options.ts';
import { type ControlAddress, openStream } from './client.ts';
import { decodeError } from './control-error.ts';
import type { HostReport } from './machine-host.ts';
import { linesOf, type MachineStatus } from './protocol.ts';
import { RemoteMachine } from './remote-machine.ts';

const HOST = fileURLToPath(new URL('./machine-host.js', import.meta.url));
/** Bytes of the longest line that a process there prints. */
const LINE_MAX = 2 ** 20;
/** How long the process may take to end once the machine was stopped. */
const END_MS = 10_000;

/** It has a machine and its process to itself. */
export class LabMachine extends RemoteMachine {
  readonly #owned: AsyncCleanupStack;

  /**
   * As `VirtualMachine.create`, in the lab.
   * @throws as that; PeerError (E_LAB_GONE) when the lab does not come up
   */
  static async boot(options: MachineOptions): Promise<LabMachine> {
    // Bad usage is reported before anything is booted.
    resolveOptions(options);
    const { lab: _here, guest, guestKernel, onProgress, ...others } = options;
    // The lab has no packages to build it from.
    const files = await bootFiles(options, onProgress);
    const machine = { ...others, ...files };
    await using stack = new AsyncCleanupStack();
    const held = stack.use(await holdLab(writtenFolders(options), onProgress));
    const { process, socket } = await startHost(held, machine);
    stack.defer(() => end(process));
    const address = { name: 'lab', connect: () => connectUnix(held.lab.agent, socket) };
    const { connection, status } = await openStream(address, 'events');
    return new LabMachine(address, connection, status, stack.move());
  }

  private constructor(
    address: ControlAddress,
    events: Duplex,
    status: MachineStatus,
    owned: AsyncCleanupStack,
  ) {
    super(address, events, status);
    this.#owned = owned;
    // From the beginning: the lab's end keeps nothing for those who come later.
    void this.console;
    void this.serial;
  }

  override async close(): Promise<void> {
    if (this.state === 'disposed') return;
    // A lab that is gone has taken the machine along.
    await this.stop().catch(() => {});
    await super.close();
    await this.#owned.disposeAsync();
  }
}

/** Starts the process. @throws the machine's error */
async function startHost(
  { lab }: HeldLab,
  machine: MachineOptions,
): Promise<{ readonly process: GuestProcess; readonly socket: string }> {
  // What it reports is among what a device of the user's own prints.
  const mark = randomUUID();
  const file = await lab.writeFile(JSON.stringify(machine));
  const host = lab.spawn([process.execPath, HOST, file, mark]);
  host.stderr.pipe(process.stderr, { end: false });
  const lines = linesOf(host.stdout, LINE_MAX);
  for (;;) {
    const { value: line } = await lines.next();
    if (line === undefined) {
      const { exitCode } = await host.exit;
      throw new PeerError(
        'E_LAB',
        `the machine's process in the lab ended with status ${exitCode}`,
      );
    }
    if (!line.startsWith(mark)) {
      process.stdout.write(`${line}\n`);
      continue;
    }
    await lines.return();
    host.stdout.pipe(process.stdout, { end: false });
    const report = JSON.parse(line.slice(mark.length)) as HostReport;
    if ('socket' in report) return { process: host, socket: report.socket };
    throw decodeError(report.error, '');
  }
}

/** The end of its input has it end; a process that does not is killed. */
async function end(host: GuestProcess): Promise<void> {
  host.stdin.end();
  const timer = setTimeout(() => host.kill('SIGKILL'), END_MS);
  // The lab may be gone.
  await host.exit.catch(() => {});
  clearTimeout(timer);
}
