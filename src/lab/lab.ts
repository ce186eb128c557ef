/** The lab: an emulated PC with nested virtualization, whose root is the host's file system. */
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AgentClient, type ExecOptions, type ExecResult } from '../agent/client.ts';
import type { GuestProcess, SpawnOptions } from '../agent/command.ts';
import { cacheFolder, makeFolder } from '../guest/cache.ts';
import { requirePrograms } from '../guest/executables.ts';
import { findProgram } from '../guest/find-program.ts';
import { buildGuest } from '../guest/guests.ts';
import type { Progress } from '../guest/kernel.ts';
import { PeerError, UsageError } from '../host/errors.ts';
import { awaitAgent } from './await-agent.ts';
import { bootBochs } from './bochs-lab.ts';
import { Children } from './children.ts';
import { lastLines } from './last-lines.ts';
import { packageFolder } from './package-folder.ts';
import { qemuCommand, type Share, virtiofsdCommand } from './qemu-command.ts';

const SOCKET_POLL_MS = 5;

/**
 * Whose processor is emulated: `amd` by QEMU, with SVM; `intel` by Bochs, with VMX, which is
 * slower and sees copies of files only (docs/lab.md).
 */
export type LabCpu = 'amd' | 'intel';
export const LAB_CPUS: readonly LabCpu[] = ['amd', 'intel'];

/** What the emulated host is made of. */
export interface LabOptions {
  /** Default `amd`. */
  readonly cpu?: LabCpu;
  /** Bytes of RAM. Default 8 GiB; 2 GiB with an Intel CPU. */
  readonly memory?: number;
  /** Default 2; 1 with an Intel CPU. */
  readonly cpus?: number;
  /**
   * Folders that commands in the lab may write to, besides the package's own and the cache. With
   * an Intel CPU: folders that are copied into it.
   */
  readonly shares?: readonly string[];
  /** Added to QEMU's `-M q35`, e.g. `kernel-irqchip=split`. */
  readonly machine?: string;
  /** More of QEMU's options, e.g. `['-device', 'e1000e']`. */
  readonly qemuArgs?: readonly string[];
  /** Added to the kernel's command line, e.g. `intel_iommu=on`. */
  readonly kernelArgs?: string;
  /** Ends an attempt to boot that hangs. Default 180 s; 900 s with an Intel CPU. */
  readonly bootTimeoutMs?: number;
  readonly onProgress?: Progress;
}

/** A running lab. Commands see the host's files under the same paths. */
export class Lab implements AsyncDisposable {
  /** The conversation with its agent. */
  readonly agent: AgentClient;
  readonly #end: () => Promise<void>;

  private constructor(agent: AgentClient, end: () => Promise<void>) {
    this.agent = agent;
    this.#end = end;
  }

  /**
   * Boots a lab that ends with this process at the latest.
   * @throws UsageError when the host lacks a program; PeerError (E_LAB_GONE) with the last lines of
   * the console when it does not come up. What is running when it dies later ends with such an error.
   */
  static async boot(options: LabOptions = {}): Promise<Lab> {
    if (options.cpu === 'intel') {
      const { agent, end } = await bootBochs(options);
      return new Lab(agent, end);
    }
    const progress = options.onProgress ?? (() => {});
    const guest = await buildGuest('lab', { onProgress: (step, done) => progress(step, done / 2) });
    const { qemu, virtiofsd } = await programs();
    const children = new Children();
    try {
      const shares = sharesOf(options.shares ?? [], children.folder);
      const servers = shares.map((share) => children.start(virtiofsdCommand(virtiofsd, share)));
      await Promise.all(
        servers.map((server, i) => awaitSocket(server, (shares[i] as Share).socket, 'virtiofsd')),
      );
      const shape = {
        memoryMiB: Math.ceil((options.memory ?? 8 * 2 ** 30) / 2 ** 20),
        cpus: options.cpus ?? 2,
        machine: options.machine ?? '',
        qemuArgs: options.qemuArgs ?? [],
        kernelArgs: options.kernelArgs ?? '',
      };
      progress('lab: booting', 0.5);
      const socket = join(children.folder, 'agent');
      const machine = children.start(qemuCommand(qemu, guest, shape, shares, socket));
      const agent = await awaitAgent({
        name: 'qemu',
        process: machine,
        console: lastLines(machine),
        connect: (signal) => connectWhenThere(socket, signal),
        timeoutMs: options.bootTimeoutMs ?? 180_000,
      });
      progress('lab: mounting', 0.9);
      await setUp(agent, shares, guest.kernelVersion);
      progress('lab: ready', 1);
      const end = async (): Promise<void> => {
        agent.close();
        children[Symbol.dispose]();
      };
      return new Lab(agent, end);
    } catch (error) {
      children[Symbol.dispose]();
      throw error;
    }
  }

  /** Uses a lab that another process keeps. @param socket path of its broker's socket */
  static async attach(socket: string): Promise<Lab> {
    const agent = new AgentClient(await connected(socket), { shared: true });
    await agent.ready();
    const end = async (): Promise<void> => agent.close();
    return new Lab(agent, end);
  }

  /** Starts a command. Its directory is by default ours, its environment ours as far as it is not the host's own. */
  spawn(argv: readonly string[], options: SpawnOptions = {}): GuestProcess {
    return this.agent.spawn(argv, atHome(options));
  }

  /** Runs a command to its end. */
  exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    return this.agent.exec(argv, atHome(options));
  }

  /** Ends a lab booted here with everything in it; lets go of one attached to. */
  close(): Promise<void> {
    return this.#end();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Variables that mean the same inside. */
const KEPT =
  /^(PATH|HOME|TERM|COLORTERM|NO_COLOR|LANG|LC_.*|CI|NODE_.*|XDG_CACHE_HOME|NODEVMM_.*|TAP_.*)$/;

function atHome<T extends SpawnOptions>(options: T): T {
  const env: Record<string, string> = { NODEVMM_IN_LAB: '1' };
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && KEPT.test(name)) env[name] = value;
  }
  return { ...options, cwd: options.cwd ?? process.cwd(), env: { ...env, ...options.env } };
}

async function programs(): Promise<{ qemu: string; virtiofsd: string }> {
  if (process.getuid?.() !== 0) {
    // Limit: QEMU's virtiofsd serves others' files to root only, also inside a user namespace.
    throw new UsageError(
      'E_LAB',
      'the lab shows all files of the host and needs root for it; use sudo',
    );
  }
  const found = await requirePrograms({
    'qemu-system-x86_64': 'qemu-system-x86',
    setpriv: 'util-linux',
  });
  const qemu = found.get('qemu-system-x86_64') as string;
  const virtiofsd = findProgram('virtiofsd');
  if (virtiofsd !== undefined) return { qemu, virtiofsd };
  throw new UsageError(
    'E_PACKAGE',
    'virtiofsd not found on this host; apt-get install qemu-system-common (Debian 12) or virtiofsd',
  );
}

function sharesOf(more: readonly string[], folder: string): Share[] {
  makeFolder(cacheFolder());
  const writable = [...new Set([packageFolder, cacheFolder(), ...more])];
  const share = (path: string, tag: string, still: boolean): Share => ({
    tag,
    path,
    socket: join(folder, tag),
    still,
  });
  return [share('/', 'root', true), ...writable.map((path, i) => share(path, `share${i}`, false))];
}

async function awaitSocket(child: ChildProcess, path: string, name: string): Promise<void> {
  const errors = lastLines(child);
  while (!existsSync(path)) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) {
      throw new PeerError('E_LAB', `${name} ended at once: ${errors().join('; ')}`);
    }
    await delay(SOCKET_POLL_MS);
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

async function connectWhenThere(path: string, signal: AbortSignal): Promise<Socket> {
  while (!existsSync(path)) await delay(SOCKET_POLL_MS, undefined, { signal });
  return await connected(path);
}

/** What cannot be done before the shares' paths are known, and the check that KVM is there. */
async function setUp(agent: AgentClient, shares: readonly Share[], kernel: string): Promise<void> {
  const script = `set -e
modules=$1
shift
while [ $# -gt 0 ]; do
  mkdir -p "$2"
  mount -t virtiofs "$1" "$2"
  shift 2
done
mkdir -p /lib/modules/${kernel}
mount --bind "$modules" /lib/modules/${kernel}
# As on most distributions; the cloud kernel's own default is never.
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
exec 3<>/dev/kvm`;
  const writable = shares.slice(1).flatMap(({ tag, path }) => [tag, path]);
  const modules = cacheFolder('kernels', kernel, 'modules');
  const busybox = '/run/nodevmm/busybox';
  const end = await agent.exec([busybox, 'sh', '-c', script, 'sh', modules, ...writable]);
  if (end.exitCode !== 0) {
    throw new PeerError('E_LAB', `the lab could not be set up: ${end.stderr.toString().trim()}`);
  }
}
