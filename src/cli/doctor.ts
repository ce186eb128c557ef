/** `nodevmm doctor`: what this host offers, in one table. */
import { readFileSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import * as cap from '../abi/kvm-constants.ts';
import { findProgram } from '../guest/programs.ts';
import { messageOf } from '../host/errors.ts';
import { IoUring } from '../host/io-uring.ts';
import { packageFolder } from '../host/package-folder.ts';
import * as sys from '../host/syscall.ts';
import { capabilityName } from '../kvm/exit-names.ts';
import { Kvm } from '../kvm/kvm.ts';
import { probeKvm } from '../kvm/probe.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { RegisterCommand } from './exit-status.ts';
import { columns, remaining, wrap } from './terminal/text-table.ts';

/** One line of the report. */
export interface DoctorRow {
  readonly what: string;
  /** `limited`: usable, with the restrictions in `found`. */
  readonly status: 'ok' | 'limited' | 'missing';
  /** What was found, or why it is missing. */
  readonly found: string;
  /** What it is for. */
  readonly enables: string;
  /** How to get it; empty when there is nothing to do. */
  readonly remedy: string;
}

type Finding = Pick<DoctorRow, 'status' | 'found'> & { readonly remedy?: string };

function row(what: string, enables: string, remedy: string, find: () => Finding): DoctorRow {
  const finding = find();
  const advice = finding.status === 'ok' ? '' : (finding.remedy ?? remedy);
  return { what, enables, status: finding.status, found: finding.found, remedy: advice };
}

/** Capabilities that nodevmm uses where it has them. */
const OPTIONAL_CAPABILITIES = [
  cap.KVM_CAP_TSC_DEADLINE_TIMER,
  cap.KVM_CAP_XSAVE,
  cap.KVM_CAP_XCRS,
  cap.KVM_CAP_ADJUST_CLOCK,
  cap.KVM_CAP_READONLY_MEM,
  cap.KVM_CAP_GET_TSC_KHZ,
];

function findKvm(): Finding {
  try {
    using kvm = Kvm.open();
    const missing = OPTIONAL_CAPABILITIES.filter((capability) => !kvm.check(capability));
    const lacks = missing.length > 0 ? `; lacks ${missing.map(capabilityName).join(', ')}` : '';
    return { status: 'ok', found: `API 12, up to ${kvm.maxVcpus} vCPUs${lacks}` };
  } catch (error) {
    return { status: 'missing', ...splitMessage(error) };
  }
}

/** Our errors read "what: why; what to do". */
function splitMessage(error: unknown): { found: string; remedy: string } {
  const message = messageOf(error);
  const [found = message, ...remedy] = message.split('; ');
  return { found, remedy: remedy.join('; ') };
}

function findExecution(): Finding {
  const { usable, kind, detail } = probeKvm(true);
  if (usable) return { status: 'ok', found: detail };
  return { status: 'missing', found: kind === 'none' ? 'no KVM to try' : detail };
}

function findDevice(path: string): Finding {
  const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd < 0) return { status: 'missing', found: `${path}: ${sys.errnoName(-fd)}` };
  sys.close(fd);
  return { status: 'ok', found: path };
}

const CAP_NET_ADMIN = 12n;

function findTun(): Finding {
  const device = findDevice('/dev/net/tun');
  if (device.status !== 'ok') return device;
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readText('/proc/self/status'))?.[1] ?? '0';
  if (((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n) return device;
  return {
    status: 'limited',
    found: 'taps made before can be used, new ones not (no CAP_NET_ADMIN)',
    remedy: 'sudo ip tuntap add dev nodevmm0 mode tap user $USER, then --net tap=nodevmm0',
  };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function findIoUring(): Finding {
  try {
    new IoUring(1, 1)[Symbol.dispose]();
    return { status: 'ok', found: 'a ring can be made' };
  } catch (error) {
    return { status: 'missing', found: splitMessage(error).found };
  }
}

function findHugePages(): Finding {
  const info = readText('/proc/meminfo');
  const number = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const free = number('HugePages_Free');
  const each = number('Hugepagesize') / 1024;
  const transparent = /\[(\w+)\]/.exec(
    readText('/sys/kernel/mm/transparent_hugepage/enabled'),
  )?.[1];
  const found = `${free} free of ${each} MiB; transparent: ${transparent ?? 'no'}`;
  return { status: free > 0 ? 'ok' : 'missing', found };
}

function softLimit(name: string): number {
  const text = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(readText('/proc/self/limits'))?.[1];
  return text === undefined || text === 'unlimited' ? Infinity : Number(text);
}

function findLimit(name: string, wanted: number, show: (value: number) => string): Finding {
  const value = softLimit(name);
  const found = value === Infinity ? 'unlimited' : show(value);
  return { status: value >= wanted ? 'ok' : 'limited', found };
}

const LOCKED_WANTED = 64 * MiB;
const FILES_WANTED = 1024;
const MEMORY_WANTED = 1024 * MiB;

function findMemory(): Finding {
  const found = `${Math.floor(freemem() / MiB)} MiB free of ${Math.floor(totalmem() / MiB)}; ${availableParallelism()} CPUs`;
  return { status: freemem() >= MEMORY_WANTED ? 'ok' : 'limited', found };
}

/** A distribution package, as src/packages.json names it. */
interface Package {
  readonly name: string;
  readonly probe: readonly string[];
  readonly for: string;
}

function packageRows(): DoctorRow[] {
  const file = join(packageFolder, 'src/packages.json');
  const packages = JSON.parse(readFileSync(file, 'utf8')) as readonly Package[];
  return packages.map(({ name, probe, for: purpose }) =>
    row(name, purpose, `apt-get install ${name}`, () => {
      const lost = probe.filter((program) => findProgram(program) === undefined);
      return lost.length === 0
        ? { status: 'ok', found: probe.map((program) => findProgram(program)).join(', ') }
        : { status: 'missing', found: `no ${lost.join(', ')}` };
    }),
  );
}

/** Checks this host; takes milliseconds and changes nothing. */
export function examineHost(): DoctorRow[] {
  return [
    row('KVM', 'virtual machines', '', findKvm),
    row(
      'guest execution',
      'booting Linux without the lab',
      'enable (nested) virtualization for this host, or use --lab',
      findExecution,
    ),
    row(
      'vhost-net',
      'network queues served by the kernel',
      'modprobe vhost_net, and join the group kvm',
      () => findDevice('/dev/vhost-net'),
    ),
    row(
      'vhost-vsock',
      'sockets between host and guest',
      'modprobe vhost_vsock, and join the group kvm',
      () => findDevice('/dev/vhost-vsock'),
    ),
    row('tun', 'networks (--net)', 'modprobe tun, as root or with CAP_NET_ADMIN', findTun),
    row(
      'io_uring',
      'the faster engine for disks',
      'Linux 5.10 or later, and sysctl kernel.io_uring_disabled=0',
      findIoUring,
    ),
    row(
      'huge pages',
      'RAM with fewer TLB misses (--hugepages)',
      'sysctl vm.nr_hugepages=512, as root',
      findHugePages,
    ),
    row(
      'locked memory',
      'io_uring buffers and passed-through devices',
      'ulimit -l unlimited, or memlock in /etc/security/limits.conf',
      () => findLimit('Max locked memory', LOCKED_WANTED, (bytes) => `${bytes / MiB} MiB`),
    ),
    row('open files', 'many devices and queues', 'ulimit -n 4096', () =>
      findLimit('Max open files', FILES_WANTED, String),
    ),
    row('memory', 'guest RAM', 'end other programs, or give guests less', findMemory),
    ...packageRows(),
  ];
}

const NARROWEST = 30;
const DEFAULT_WIDTH = 100;
const STATUS_WIDTH = 'missing'.length;
/** With less room for the last two columns, they are stacked. */
const SIDE_BY_SIDE = 56;

/** The report in readable form, as lines of at most `width` characters (at least 30). */
export function doctorTable(rows: readonly DoctorRow[], width: number): string[] {
  const wide = Math.max(NARROWEST, width);
  const nameWidth = Math.max(...rows.map(({ what }) => what.length));
  const rest = remaining(wide, [STATUS_WIDTH, nameWidth]);
  const indent = wide - rest;
  if (rest < SIDE_BY_SIDE) return rows.flatMap((row) => stacked(row, wide));
  const found = Math.ceil((rest - 2) * 0.55);
  const widths = [STATUS_WIDTH, nameWidth, found, rest - 2 - found];
  const head = columns(['status', 'what', 'found', 'enables'], widths);
  const body = rows.flatMap((row) => {
    const cells = columns([row.status, row.what, row.found, row.enables], widths);
    if (row.remedy === '') return cells;
    const advice = wrap(`get it: ${row.remedy}`, rest);
    return [...cells, ...advice.map((line) => ' '.repeat(indent) + line)];
  });
  return [...head, ...body];
}

const INDENT = '  ';

function stacked({ status, what, found, enables, remedy }: DoctorRow, width: number): string[] {
  const below = [`found: ${found}`, `enables: ${enables}`];
  if (remedy !== '') below.push(`get it: ${remedy}`);
  return [
    `${what}: ${status}`,
    ...below.flatMap((text) => wrap(text, width - INDENT.length)).map((line) => INDENT + line),
  ];
}

const EXAMPLES = `
Examples:
  nodevmm doctor          what works here, and how to get the rest
  nodevmm doctor --json   the same for programs`;

/** Adds `doctor`. Missing features are not a failure. */
export const registerDoctorCommand: RegisterCommand = (program, finish) => {
  program
    .command('doctor')
    .description('what this host supports: KVM, devices, limits, packages')
    .option('--json', 'print an array of {what, status, found, enables, remedy}')
    .addHelpText('after', EXAMPLES)
    .action(({ json }: { json?: boolean }) => {
      const rows = examineHost();
      const width = process.stdout.columns ?? DEFAULT_WIDTH;
      const text = json === true ? [JSON.stringify(rows, null, 2)] : doctorTable(rows, width);
      process.stdout.write(`${text.join('\n')}\n`);
      finish(0);
    });
};
