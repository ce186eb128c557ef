/** Boots the lab's Intel machine. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentClient } from '../agent/client.ts';
import { cacheFolder } from '../guest/cache.ts';
import { requirePrograms } from '../guest/executables.ts';
import { buildGuest } from '../guest/guests.ts';
import { CleanupStack } from '../host/cleanup-stack.ts';
import { PeerError, UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import { awaitAgent } from './await-agent.ts';
import {
  BOCHS_FILES,
  bochsCommand,
  bochsConfiguration,
  bochsKernelCommandLine,
  DEBUGGER_SCRIPT,
} from './bochs-command.ts';
import { writeBochsImage } from './bochs-image.ts';
import { Children, lastLines, lastLinesOf } from './children.ts';
import type { LabOptions } from './lab.ts';
import { SerialListener } from './serial-listener.ts';

const DEFAULT_MEMORY = 2 * 2 ** 30;
/** RAM must end below the devices' addresses. */
const MOST_MEMORY_MIB = 3072;
const BOOT_TIMEOUT_MS = 900_000;
/** An answer takes seconds, and a greeting sent twice takes its time on the line. */
const HELLO_RETRY_MS = 60_000;
/** Its last message, in its frame. */
const BOCHS_LINES = 8;

/**
 * Boots it.
 * @returns the conversation with its agent, and what ends the machine
 * @throws UsageError for what it has not, or when the host lacks a program; PeerError (E_LAB_GONE)
 *   with the last lines of the console when it does not come up
 */
export async function bootBochs(
  options: LabOptions,
): Promise<{ agent: AgentClient; resources: CleanupStack }> {
  const progress = options.onProgress ?? (() => {});
  const memoryMiB = checked(options);
  const bochs = await findBochs();
  const building = (from: number) => (step: string, done: number) =>
    progress(step, from + done / 5);
  const stage = await buildGuest('lab-intel', { onProgress: building(0) });
  const guest = await buildGuest('minimal', { onProgress: building(0.2) });
  const token = randomBytes(16).toString('hex');
  using listener = await SerialListener.open(token);
  // The image of its RAM is too large for the folder of sockets, which may lie in memory.
  using stack = new CleanupStack();
  const children = stack.use(new Children(cacheFolder()));
  const { folder } = children;
  const shape = { memoryMiB, port: listener.port };
  progress('lab: collecting its files', 0.4);
  const images = await writeBochsImage(
    folder,
    memoryMiB,
    { stage, guest, shares: options.shares ?? [] },
    (imageMiB) => bochsKernelCommandLine(shape, imageMiB, token, options.kernelArgs ?? ''),
  );
  writeFileSync(join(folder, BOCHS_FILES.configuration), bochsConfiguration(shape, images));
  writeFileSync(join(folder, BOCHS_FILES.script), DEBUGGER_SCRIPT);
  progress('lab: booting (Bochs, minutes)', 0.5);
  const machine = children.start(bochsCommand(bochs), { cwd: folder });
  const ofBochs = lastLines(machine);
  const agent = await awaitAgent({
    name: 'bochs',
    process: machine,
    console: () => consoleOf(join(folder, BOCHS_FILES.console), ofBochs),
    connect: () => listener.connection(),
    timeoutMs: options.bootTimeoutMs ?? BOOT_TIMEOUT_MS,
    helloRetryMs: HELLO_RETRY_MS,
  });
  stack.use(agent);
  for (const { file } of images) rmSync(join(folder, file));
  await checkKvm(agent);
  progress('lab: ready', 1);
  return { agent, resources: stack.move() };
}

/** @returns the machine's memory in MiB */
function checked({ memory = DEFAULT_MEMORY, cpus, machine, qemuArgs }: LabOptions): number {
  const refused = (what: string, advice: string): UsageError =>
    new UsageError('E_LAB', `the lab with an Intel CPU ${what}`, advice);
  if (cpus !== undefined && cpus !== 1) throw refused('has one CPU', 'leave out --cpus');
  if (machine !== undefined || qemuArgs !== undefined) {
    throw refused('does not run in QEMU', 'leave out --machine and --qemu-arg');
  }
  const memoryMiB = Math.ceil(memory / MiB);
  if (memoryMiB <= MOST_MEMORY_MIB) return memoryMiB;
  throw refused(`has at most ${MOST_MEMORY_MIB} MiB`, 'reduce --memory');
}

async function findBochs(): Promise<string> {
  const found = await requirePrograms({ 'bochs-bin': 'bochs-term', setpriv: 'util-linux' });
  // The display that needs no screen is a separate package.
  if (existsSync('/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so')) {
    return found.get('bochs-bin') as string;
  }
  throw new UsageError('E_PACKAGE', 'this Bochs needs a display', 'apt-get install bochs-term');
}

async function checkKvm(agent: AgentClient): Promise<void> {
  const end = await agent.exec(['sh', '-c', 'exec 3<>/dev/kvm']);
  if (end.exitCode === 0) return;
  throw new PeerError('E_LAB', `the lab's KVM cannot be used: ${end.stderr.toString().trim()}`);
}

/** The machine's output or, if it never ran, Bochs's. */
function consoleOf(path: string, ofBochs: () => string[]): string[] {
  try {
    const lines = lastLinesOf(readFileSync(path, 'latin1'));
    if (lines.length > 0) return lines;
  } catch {
    // No output yet.
  }
  return ofBochs().slice(-BOCHS_LINES);
}
