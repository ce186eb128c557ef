/** The contract of a subject, a VMM in one particular configuration, and which of them are measured. */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecResult } from '../../src/agent/exec.ts';
import type { KernelSeries } from '../../src/guest/kernel.ts';
import { findProgram } from '../../src/guest/programs.ts';
import { packageFolder } from '../../src/host/package-folder.ts';
import { countVfio } from '../../src/vfio/host-function.ts';
import { isInLab } from '../harness/host.ts';
import type { Contestant } from '../harness/rounds.ts';

/** nodevmm's command line, as it is installed. */
export const NODEVMM = join(packageFolder, 'dist/bundle/bin/main.js');

/** A disk that the guest has as vda, vdb ... It is only read. */
export interface DiskSpec {
  readonly path: string;
  /** Whether its file system supports O_DIRECT; every subject then uses it. */
  readonly direct: boolean;
  /** It is served already: the socket of a vhost-user backend, or the file of a vDPA device. */
  readonly vhostUser?: string;
  readonly vdpa?: string;
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
  /** Instead of it: the file of a vDPA device. */
  readonly vdpa?: string;
  /** Which is hardware: all of the guest's memory is mapped for it, in as few pieces as there are. */
  readonly vdpaInHardware?: true;
  /** Instead of a tap or of disks: the address of a PCI function of the host. */
  readonly vfio?: string;
}

/**
 * The kernel command line of every guest. In the lab speculation is emulated too: there is nothing to
 * mitigate, and no processor has the costs of mitigations there (each return is an indirect jump).
 */
export const COMMAND_LINE = `console=hvc0 quiet panic=-1${isInLab() ? ' mitigations=off' : ''}`;

/** A network interface: virtio with its queues served by the VMM or by vhost, or an emulated card. */
export type Nic = 'virtio' | 'vhost' | 'e1000';

/**
 * An IOMMU in front of its devices, and when its kernel takes mappings away: in batches, or each as soon as it is no
 * longer used.
 */
export type IommuMode = 'lazy' | 'strict';

/** For the kernel's command line. */
export const iommuArguments = (mode: IommuMode | undefined): string =>
  mode === undefined ? '' : `iommu.strict=${mode === 'strict' ? 1 : 0}`;

/** Debian's cloud kernel has no driver for the emulated card. */
export const E1000_KERNEL: KernelSeries = '6.12-amd64';

/** The processes that do a VMM's work. */
export interface Processes {
  /** The VMM itself. */
  readonly pid: number;
  /** Those that serve its devices, over vhost-user. */
  readonly backends?: readonly number[];
}

/** A guest whose agent answers. */
export interface RunningGuest extends Processes, AsyncDisposable {
  /** Runs a command in the guest to its end; rejects when that takes too long. */
  exec(argv: readonly string[], timeoutMs?: number): Promise<ExecResult>;
  /** Stops its processes, or continues them. */
  rest?(resting: boolean): void;
}

/** Something that can be requested by name. */
export interface Selectable extends Contestant {
  /** Only measured when it is named, or with `--variants`. */
  readonly variant?: boolean;
  /** What this host lacks for it; undefined when nothing. */
  readonly lacking?: () => string | undefined;
}

/** What a row passes on; `any`: what those leave that want one of a kind. */
export type PassedCard = 'any' | 'e1000e' | 'virtio';

/** Cards of a kind, by vendor and device ID. */
const CARD_IDS: Readonly<Record<Exclude<PassedCard, 'any'>, RegExp>> = {
  // The 82574L, which is also QEMU's e1000e.
  e1000e: /^8086:10d3$/,
  virtio: /^1af4:10(?:00|41)$/,
};

/** A VMM that boots guests. */
export interface Subject extends Selectable {
  /** Its guest's kernel, where the default's lacks a driver. */
  readonly kernel?: KernelSeries;
  /** A PCI function of the host takes the place of its tap or its disks. */
  readonly passes?: PassedCard;
  /** Its guest's own driver answers pings, and does nothing else. */
  readonly echoes?: boolean;
  /** It never sleeps, so it is stopped while others are measured. */
  readonly rests?: boolean;
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

/** What the host lacks for QEMU. */
export function lacksQemu(): string | undefined {
  const found = findProgram('qemu-system-x86_64');
  return found === undefined ? 'no qemu-system-x86_64; apt-get install qemu-system-x86' : undefined;
}

/** What it lacks for network queues that the kernel serves. */
export function lacksVhostNet(): string | undefined {
  try {
    accessSync('/dev/vhost-net', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code;
    return `/dev/vhost-net: ${why}; modprobe vhost_net, as root`;
  }
}

/** What it lacks for devices of its own in guests. */
export function lacksVfio(): string | undefined {
  const { groups } = countVfio();
  if (groups === 0) return 'no IOMMU';
  return existsSync('/sys/bus/pci/drivers/vfio-pci') ? undefined : 'modprobe vfio-pci, as root';
}

/** The user's selection. */
export interface Wanted {
  /** Names of rows, or parts of names; empty: all except variants. */
  readonly subjects: readonly string[];
  /** Variants as well. */
  readonly variants: boolean;
}

/** True for a row whose name was given, or contains a given text that is no row's name. */
function isWanted(
  { name, variant = false }: Selectable,
  all: readonly Selectable[],
  { subjects, variants }: Wanted,
): boolean {
  if (subjects.length === 0) return variants || !variant;
  const own = name.toLowerCase();
  return subjects.some((text) => {
    const asked = text.toLowerCase();
    const exact = all.some((other) => other.name.toLowerCase() === asked);
    return exact ? own === asked : own.includes(asked);
  });
}

/** The rows that the user selected. */
export function asked<S extends Selectable>(all: readonly S[], wanted: Wanted): S[] {
  return all.filter((one) => isWanted(one, all, wanted));
}

/** `8086:10d3`, of the function at the start of a text such as `ADDRESS=INTERFACE`. */
function pciId(card: string): string {
  const [address = ''] = card.split('=');
  const read = (file: string): string => {
    try {
      return readFileSync(`/sys/bus/pci/devices/${address}/${file}`, 'latin1').trim().slice(2);
    } catch {
      return '';
    }
  };
  return `${read('vendor')}:${read('device')}`;
}

/**
 * Gives each row that passes a PCI function to its guest one of them.
 * @param why they are left out when there is none left
 * @param idOf tests substitute their own
 */
export function dealCards(
  rows: readonly Subject[],
  cards: readonly string[],
  { omit }: { readonly omit: (name: string, why: string) => void },
  why: string,
  idOf: (card: string) => string = pciId,
): { readonly subjects: Subject[]; readonly cards: ReadonlyMap<Subject, string> } {
  const left = [...cards];
  const dealt = new Map<Subject, string>();
  const deal = (row: Subject, suits: (card: string) => boolean): void => {
    const at = left.findIndex(suits);
    const [card] = at < 0 ? [] : left.splice(at, 1);
    if (card !== undefined) dealt.set(row, card);
  };
  for (const row of rows) {
    const { passes = 'any' } = row;
    if (passes !== 'any') deal(row, (card) => CARD_IDS[passes].test(idOf(card)));
  }
  for (const row of rows) if (row.passes === 'any') deal(row, () => true);
  const subjects = rows.filter((row) => {
    const complete = row.passes === undefined || dealt.has(row);
    if (!complete) omit(row.name, row.passes === 'any' ? why : `${why}, of the kind ${row.passes}`);
    return complete;
  });
  return { subjects, cards: dealt };
}

/**
 * The rows to measure.
 * @param omit called for each requested row that this host lacks something for
 */
export function select<S extends Selectable>(
  all: readonly S[],
  wanted: Wanted,
  omit: (name: string, why: string) => void,
): S[] {
  return asked(all, wanted).filter((one) => {
    const why = one.lacking?.();
    if (why !== undefined) omit(one.name, why);
    return why === undefined;
  });
}
