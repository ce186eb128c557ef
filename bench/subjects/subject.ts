/** The contract of a subject: a VMM in one particular configuration. */
import type { ExecResult } from '../../src/agent/client.ts';
import type { KernelSeries } from '../../src/guest/kernel.ts';
import { isInLab } from '../harness/host.ts';
import type { Contestant } from '../harness/rounds.ts';
import type { Processes } from '../harness/usage.ts';

/** A disk that the guest has as vda, vdb ... It is only read. */
export interface DiskSpec {
  readonly path: string;
  /** Whether its file system supports O_DIRECT; every subject then uses it. */
  readonly direct: boolean;
}

/** The guest that all subjects run alike: one vCPU, console on hvc0, agent, entropy device. */
export interface GuestSpec {
  readonly kernel: string;
  readonly initrd: string;
  /** Added to COMMAND_LINE. */
  readonly append?: string;
  readonly memoryMiB: number;
  readonly disks?: readonly DiskSpec[];
  /** A tap that exists. */
  readonly tap?: string;
  /** Instead of it: the socket of a vhost-user backend that listens. */
  readonly vhostUser?: string;
}

/**
 * The kernel command line of every guest. In the lab speculation is emulated too: there is nothing to
 * mitigate, and no processor has the costs of mitigations there (each return is an indirect jump).
 */
export const COMMAND_LINE = `console=hvc0 quiet panic=-1${isInLab() ? ' mitigations=off' : ''}`;

/** A network interface: virtio with its queues served by the VMM or by vhost, or an emulated card. */
export type Nic = 'virtio' | 'vhost' | 'e1000';

/** The guest's name of its interface. */
export const INTERFACE = 'eth0';

/** Debian's cloud kernel has no driver for the emulated card. */
export const E1000_KERNEL: KernelSeries = '6.12-amd64';

/** A guest whose agent answers. */
export interface RunningGuest extends Processes, AsyncDisposable {
  /** Runs a command in the guest to its end; rejects when that takes too long. */
  exec(argv: readonly string[], timeoutMs?: number): Promise<ExecResult>;
  /** Stops or continues what takes CPU time although the guest is idle: others are measured meanwhile. */
  rest?(resting: boolean): Promise<void>;
}

/** Something that can be requested by name. */
export interface Selectable extends Contestant {
  /** Only measured when it is named, or with `--variants`. */
  readonly variant?: boolean;
  /** What this host lacks for it; undefined when nothing. */
  readonly lacking?: () => string | undefined;
}

/** A VMM that boots guests. */
export interface Subject extends Selectable {
  /** Its guest's kernel, where the default's lacks a driver. */
  readonly kernel?: KernelSeries;
  boot(spec: GuestSpec): Promise<RunningGuest>;
}

/** Runs a command in the guest. @throws Error with its output when it fails */
export async function run(
  guest: Pick<RunningGuest, 'exec'>,
  argv: readonly string[],
  timeoutMs?: number,
): Promise<string> {
  const { stdout, stderr, exitCode } = await guest.exec(argv, timeoutMs);
  if (exitCode === 0) return stdout.toString();
  const said = `${stderr.toString()} ${stdout.toString()}`.trim().slice(-500);
  throw new Error(`${argv[0]} in the guest ended with status ${exitCode}: ${said}`);
}
