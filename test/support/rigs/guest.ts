/** Whole guests, and shell scripts in them. Each runs under the check of virtio's rules: a breach fails its test. */

import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { buildGuest } from '../../../src/guest/guests.ts';
import type { KernelSeries } from '../../../src/guest/kernel.ts';
import { type MachineOptions, type MachineState, VirtualMachine } from '../../../src/index.ts';
import { DEFAULT_COMMAND_LINE } from '../../../src/machine/resolve-options.ts';

const LAST_WORDS = 8192;

/** An emulated processor needs no mitigations, which cost TCG much. */
const LAB_ARGUMENTS: readonly string[] =
  process.env.NODEVMM_IN_LAB === '1' ? ['mitigations=off'] : [];

/** What a test may ask of its guest. */
export interface GuestFixture {
  /** Debian kernel series. Default 6.12. */
  readonly kernel?: KernelSeries;
  /** Image. Default `minimal`. */
  readonly image?: 'minimal' | 'tools';
  /** Added to the default kernel command line. */
  readonly append?: string;
  readonly machine?: Partial<MachineOptions>;
  /** Breaches that the test provokes. */
  readonly provoked?: RegExp;
}

/** A machine with one of nodevmm's images, not started yet. */
export async function createGuest(fixture: GuestFixture = {}): Promise<VirtualMachine> {
  const { kernel = '6.12', image = 'minimal', append = '', machine = {}, provoked } = fixture;
  const guest = await buildGuest(image, { kernel });
  const vm = await VirtualMachine.create({
    kernel: guest.kernel,
    initrd: guest.initrd,
    commandLine: [DEFAULT_COMMAND_LINE, ...LAB_ARGUMENTS, append].join(' ').trim(),
    check: true,
    ...machine,
  });
  vm.on('breach', ({ device, queue, side, text, dump }) => {
    if (provoked?.test(text)) return;
    t.fail(`${device} queue ${queue}: the ${side} broke a rule: ${text}`, { dump });
  });
  showLastWords(vm);
  return vm;
}

/** Standard error of a guest before an unexpected end. */
function showLastWords(vm: VirtualMachine): void {
  let tail = '';
  for (const stream of [vm.console, vm.serial]) {
    // A listener would change the stream for its reader.
    const push = stream.push.bind(stream);
    stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
      if (chunk instanceof Uint8Array) {
        tail = (tail + Buffer.from(chunk).toString('latin1')).slice(-LAST_WORDS);
      }
      return push(chunk, encoding);
    };
  }
  vm.on('exit', ({ reason, detail }) => {
    if (!['panic', 'triple-fault', 'internal-error'].includes(reason)) return;
    process.stderr.write(`the guest ended: ${reason} ${detail ?? ''}\n${tail}\n`);
  });
}

/** A machine that runs, its agent answering. */
export async function bootGuest(fixture: GuestFixture = {}): Promise<VirtualMachine> {
  const vm = await createGuest(fixture);
  try {
    await vm.start();
    const failed = vm.wait().then(({ reason, detail }) => {
      throw new Error(`the guest ended before its agent answered: ${reason} ${detail ?? ''}`);
    });
    await Promise.race([vm.ready(), failed]);
    failed.catch(() => {});
    return vm;
  } catch (error) {
    await vm[Symbol.asyncDispose]();
    throw error;
  }
}

/** Resolves when a machine enters a state. */
export function stateOf(vm: VirtualMachine, wanted: MachineState): Promise<void> {
  return new Promise((resolve) => {
    vm.on('state', (state) => {
      if (state === wanted) resolve();
    });
  });
}

/** Exits to userspace of all vCPUs since power-on. */
export async function exitsOf(vm: VirtualMachine): Promise<number> {
  const { exits } = await vm.metrics();
  return Object.values(exits).reduce((sum, count) => sum + count, 0);
}

/**
 * Runs a script in a guest, up to the first command that fails.
 * @returns what it printed, without the newline at the end
 * @throws Error with the script and its output, when its status is not 0
 */
export async function guestShell(vm: VirtualMachine, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await vm.exec(['sh', '-ec', script]);
  if (exitCode === 0) return stdout.toString().trimEnd();
  throw new Error(`status ${exitCode} from: ${script}\n${stdout.toString()}${stderr.toString()}`);
}

/** Sends bytes, and their end, to a vsock port of a guest. @returns what comes back */
export async function vsockAnswer(
  vm: VirtualMachine,
  port: number,
  bytes: Uint8Array,
): Promise<Buffer> {
  const connection = vm.connect(port);
  connection.end(bytes);
  return await buffer(connection);
}

/** A shell function `disk SERIAL` that waits for a disk and prints its name, e.g. `vda`. */
export const DISK_BY_SERIAL = `disk() {
  while :; do
    for s in /sys/block/vd*/serial; do
      [ "$(cat $s 2>/dev/null)" = "$1" ] || continue
      s=\${s#/sys/block/}
      [ -b /dev/\${s%/serial} ] && echo \${s%/serial} && return
    done
    sleep 0.1
  done
}
`;
