/** The lab: an emulated PC with nested virtualization, whose root is the host's file system. */
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { AgentClient } from '../agent/client.ts';
import type { GuestProcess } from '../agent/command.ts';
import type { CommandLine, ExecOptions, SpawnOptions } from '../agent/command-options.ts';
import type { ExecResult } from '../agent/exec.ts';
import { cacheFolder } from '../guest/cache.ts';
import { buildGuest } from '../guest/guests.ts';
import type { Progress } from '../guest/kernel.ts';
import { AsyncCloseable, CleanupStack } from '../host/cleanup-stack.ts';
import { PeerError } from '../host/errors.ts';
import { awaitAgent } from './await-agent.ts';
import { bootBochs } from './bochs-lab.ts';
import { Children, lastLines } from './children.ts';
import { findPrograms, sharesOf, startMachine } from './machine.ts';
import type { Share } from './qemu-command.ts';

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
  /** Added to the environment of every command. Its variables of before: see `spawn`. */
  readonly env?: Readonly<Record<string, string>>;
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
export class Lab extends AsyncCloseable {
  /** The conversation with its agent. */
  readonly agent: AgentClient;
  readonly #resources: CleanupStack;
  readonly #env: Readonly<Record<string, string>>;
  readonly #keepProcess: (keep: boolean) => void;

  private constructor(
    agent: AgentClient,
    resources: CleanupStack,
    env: Readonly<Record<string, string>> = {},
    keepProcess: (keep: boolean) => void = () => {},
  ) {
    super();
    this.agent = agent;
    this.#resources = resources;
    this.#env = env;
    this.#keepProcess = keepProcess;
  }

  /**
   * Boots a lab that ends with this process at the latest.
   * @throws UsageError when the host lacks a program; PeerError (E_LAB_GONE) with the last lines of
   * the console when it does not come up. What is running when it dies later ends with such an error.
   */
  static async boot(options: LabOptions = {}): Promise<Lab> {
    if (options.cpu === 'intel') {
      const { agent, resources } = await bootBochs(options);
      return new Lab(agent, resources, options.env);
    }
    const progress = options.onProgress ?? (() => {});
    const guest = await buildGuest('lab', { onProgress: (step, done) => progress(step, done / 2) });
    const tools = await findPrograms();
    using stack = new CleanupStack();
    const children = stack.use(new Children());
    const shares = sharesOf(options.shares ?? []);
    const shape = {
      memoryMiB: Math.ceil((options.memory ?? 8 * 2 ** 30) / 2 ** 20),
      cpus: options.cpus ?? 2,
      machine: options.machine ?? '',
      qemuArgs: options.qemuArgs ?? [],
      kernelArgs: options.kernelArgs ?? '',
    };
    progress('lab: booting', 0.5);
    const started = startMachine(children, tools, guest, shape, shares);
    const serial = lastLines(started.machine);
    const failure = failureOf(started.servers);
    const agent = await awaitAgent({
      name: 'qemu',
      process: started.machine,
      console: () => [...serial(), ...failure()],
      connect: async () => started.agent,
      timeoutMs: options.bootTimeoutMs ?? 180_000,
    });
    progress('lab: mounting', 0.9);
    stack.use(agent);
    await setUp(agent, shares, guest.kernelVersion);
    progress('lab: ready', 1);
    return new Lab(agent, stack.move(), options.env, (keep) => {
      children.keepProcess(keep);
      keepSocket(started.agent, keep);
    });
  }

  /**
   * Uses a lab that another process keeps.
   * @param socket path of its broker's socket
   * @param env as of LabOptions
   */
  static async attach(socket: string, env?: Readonly<Record<string, string>>): Promise<Lab> {
    using stack = new CleanupStack();
    const stream = await connected(socket);
    const agent = stack.use(new AgentClient(stream, { shared: true }));
    await agent.ready();
    return new Lab(agent, stack.move(), env, (keep) => keepSocket(stream, keep));
  }

  /**
   * Starts a command. Its directory is by default ours. Of our environment it has PATH, HOME, TERM, LANG
   * and the like, CI, XDG_CACHE_HOME, and what begins with LC_, NODE_, TAP_ or NODEVMM_; then what
   * `env` of LabOptions adds, and that of `options`.
   */
  spawn(command: CommandLine, options: SpawnOptions = {}): GuestProcess {
    return this.agent.spawn(command, this.#atHome(options));
  }

  /** Runs a command to its end. */
  exec(command: CommandLine, options: ExecOptions = {}): Promise<ExecResult> {
    return this.agent.exec(command, this.#atHome(options));
  }

  /**
   * Writes a file that only root in the lab can read. An argument or a variable may not exceed 128 KiB
   * (MAX_ARG_STRLEN, execve(2)).
   * @returns its path
   */
  async writeFile(data: string): Promise<string> {
    const file = `/run/nodevmm/${randomUUID()}`;
    const script = 'umask 077 && cat >"$1"';
    const { exitCode, stderr } = await this.exec(['sh', '-c', script, 'sh', file], { input: data });
    if (exitCode === 0) return file;
    throw new PeerError('E_LAB', `the lab cannot write ${file}: ${stderr.toString().trim()}`);
  }

  /** Whether this process waits for the lab when it has nothing else to do. At first it does. */
  keepProcess(keep: boolean): void {
    this.#keepProcess(keep);
  }

  /** Ends a lab booted here with everything in it; detaches from a kept one. */
  async close(): Promise<void> {
    this.#resources.dispose();
  }

  #atHome<T extends SpawnOptions>(options: T): T {
    const env: Record<string, string> = { NODEVMM_IN_LAB: '1' };
    for (const [name, value] of Object.entries(process.env)) {
      if (value !== undefined && KEPT.test(name)) env[name] = value;
    }
    const cwd = options.cwd ?? process.cwd();
    return { ...options, cwd, env: { ...env, ...this.#env, ...options.env } };
  }
}

function keepSocket(socket: Socket, keep: boolean): void {
  if (keep) socket.ref();
  else socket.unref();
}

/** Variables that mean the same inside. */
const KEPT =
  /^(PATH|HOME|TERM|COLORTERM|NO_COLOR|LANG|LC_.*|CI|NODE_.*|XDG_CACHE_HOME|NODEVMM_.*|TAP_.*)$/;

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

/** The message of the first virtiofsd that failed: QEMU ends with it, without knowing why. */
function failureOf(servers: readonly ChildProcess[]): () => string[] {
  const lastLinesOf = servers.map(lastLines);
  return () => {
    const index = servers.findIndex(({ exitCode }) => exitCode !== null && exitCode !== 0);
    if (index < 0) return [];
    const lines = lastLinesOf[index]?.().join('; ');
    return [`virtiofsd failed (it needs CAP_SYS_ADMIN for its mounts): ${lines}`];
  };
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
