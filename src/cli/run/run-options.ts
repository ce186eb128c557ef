/** The options of `nodevmm run`, and the machine they describe. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { KERNEL_SERIES, type KernelSeries } from '../../guest/kernel.ts';
import { UsageError } from '../../host/errors.ts';
import type { MachineOptions, TransportName } from '../../machine/options.ts';
import { DEFAULT_COMMAND_LINE } from '../../machine/resolve-options.ts';
import { collectVariable } from '../environment.ts';
import { addDeviceOptions, deviceOptions, parseRings, RING_KEYS } from './device-options.ts';
import { parseSmbios, SMBIOS_KEYS } from './smbios-option.ts';

/** Where a console's output goes. */
export type ConsoleTarget =
  | { readonly to: 'tty' }
  | { readonly to: 'none' }
  | { readonly to: 'file'; readonly path: string; readonly append?: boolean };

/** The virtio console: where its output goes, and its transport. */
export type ConsoleFlag = ConsoleTarget & { readonly transport?: TransportName };

/** Option values from commander, except those of devices. */
export interface RunFlags {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly guest?: string;
  readonly guestKernel?: KernelSeries;
  readonly cmdline?: string;
  readonly append?: string;
  readonly memory?: number;
  readonly cpus?: number;
  readonly module?: readonly string[];
  readonly watch?: boolean;
  readonly ring?: readonly string[];
  readonly console?: ConsoleFlag;
  readonly serial?: ConsoleTarget;
  readonly hideCpuFeature?: readonly string[];
  readonly name?: string;
  readonly hugepages?: boolean;
  readonly bootProtocol?: NonNullable<MachineOptions['bootProtocol']>;
  readonly smbios?: readonly string[];
  readonly transport?: TransportName;
  readonly notify?: NonNullable<MachineOptions['notify']>;
  readonly onReboot?: 'restart' | 'exit';
  readonly trace?: readonly string[];
  readonly check?: boolean;
  readonly lab?: boolean;
  readonly spec?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

/** Parses a size in bytes: `512M`, `4G`, `65536K`; a bare number counts MiB. */
export function parseMemory(text: string): number {
  const match = /^([1-9][0-9]{0,9})([KMGT]?)(i?B)?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('Take for example 512M or 4G.');
  const units: Record<string, number> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
  return Number(match[1]) * (units[(match[2] || 'M').toUpperCase()] ?? 1);
}

function parseCount(text: string): number {
  if (!/^[1-9][0-9]{0,5}$/.test(text)) throw new InvalidArgumentError('Take a number from 1.');
  return Number(text);
}

/** `tty`, `none`, `file:PATH` or `file:PATH,append`. */
export function parseConsole(text: string): ConsoleTarget {
  if (text === 'tty' || text === 'none') return { to: text };
  const [, path, append] = /^file:(.+?)(,append)?$/s.exec(text) ?? [];
  if (path === undefined) {
    throw new InvalidArgumentError('Take tty, none, file:PATH or file:PATH,append.');
  }
  return { to: 'file', path, ...(append === undefined ? {} : { append: true }) };
}

/** As `parseConsole`, with the key `transport=pci|mmio`. */
export function parseVirtioConsole(text: string): ConsoleFlag {
  const [, where = '', name, append = ''] =
    /^(.*?)(?:,transport=([^,]*))?(,append)?$/s.exec(text) ?? [];
  if (name === undefined) return parseConsole(text);
  if (name !== 'pci' && name !== 'mmio')
    throw new InvalidArgumentError('Take transport=pci or mmio.');
  return { ...parseConsole(`${where}${append}`), transport: name };
}

const collect = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  value,
];

const list = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  ...value.split(',').filter((name) => name !== ''),
];

/** Adds the options that describe the machine. */
export function addMachineOptions(command: Command): Command {
  command
    .option('--kernel <file>', 'bzImage or ELF vmlinux; default: the kernel of --guest')
    .option('--initrd <file>', 'initial RAM disk; default with no --kernel: that of --guest')
    .option('--guest <name>', 'guest image to boot, see `nodevmm guest list`', 'minimal')
    .addOption(
      new Option(
        '--guest-kernel <series>',
        'kernel of the guest image; 6.12-amd64 has a driver for e1000 (default: 6.12)',
      ).choices([...KERNEL_SERIES]),
    )
    .option('--cmdline <text>', 'kernel command line, instead of the default one')
    .option('--append <text>', 'text to add to the kernel command line')
    .option('--memory <size>', 'RAM: 512M, 4G; a bare number is MiB (default: 512M)', parseMemory)
    .option('--cpus <n>', 'vCPUs (default: 1)', parseCount);
  addDeviceOptions(command);
  return command
    .option(
      '--env <name[=value]>',
      'a variable for the command in the guest, and for nodevmm in the lab, as here or with this value; may be repeated',
      collectVariable,
    )
    .option('--watch', 'reload the files of --device whenever they are saved')
    .option(
      '--module <path>',
      'a kernel module for the guest: a .ko file, or the folder of its sources, which is compiled; may be repeated',
      collect,
    )
    .option(
      '--ring <device,...>',
      `ring features of all, console or rng: ${RING_KEYS}; also accepted as keys of disks and other devices`,
      collect,
    )
    .addOption(
      new Option(
        '--console <where>',
        'hvc0: tty, none, file:PATH or file:PATH,append (default: tty, none with a command); key: transport=',
      ).argParser(parseVirtioConsole),
    )
    .addOption(
      new Option(
        '--serial <where>',
        'ttyS0: tty, none, file:PATH or file:PATH,append (default: none)',
      ).argParser(parseConsole),
    )
    .option('--hide-cpu-feature <names>', 'features to hide, by their names in /proc/cpuinfo', list)
    .option('--name <name>', 'what `nodevmm vm` calls the machine (default: the process id)')
    .option('--hugepages', 'back guest RAM with huge pages')
    .addOption(
      new Option(
        '--boot-protocol <name>',
        'how the kernel is entered; linux64 and linux32 have a bzImage unpack and place itself (default: auto)',
      ).choices(['auto', 'pvh', 'linux64', 'linux32']),
    )
    .option(
      '--smbios <key=value,...>',
      `strings of the SMBIOS tables; keys: ${SMBIOS_KEYS}; may be repeated`,
      collect,
    )
    .addOption(
      new Option(
        '--transport <kind>',
        'transport of the virtio devices that name none (default: pci)',
      ).choices(['pci', 'mmio']),
    )
    .addOption(
      new Option('--notify <kind>', 'where drivers kick queues (default: io)').choices([
        'io',
        'memory',
      ]),
    )
    .addOption(
      new Option('--on-reboot <action>', 'what a reboot by the guest does').choices([
        'restart',
        'exit',
      ]),
    )
    .option(
      '--trace <file>',
      'write a trace for Perfetto to a file; summary: print a table at the end; may be given twice',
      collect,
    )
    .option('--check', 'report violations of virtio by drivers and devices')
    .option('--lab', 'run in the emulated KVM host, see `nodevmm lab`')
    .option('--no-lab', "never use the lab, even if the host's KVM cannot run Linux");
}

/** What to boot: a kernel and what goes with it. */
export interface BootImage {
  readonly kernel: string;
  readonly initrd?: string;
  readonly commandLine?: string;
}

/**
 * The machine that the options describe.
 * @param image the guest image, or undefined when --kernel names the kernel
 * @throws UsageError when options contradict each other
 */
export function machineOptions(flags: RunFlags, image: BootImage | undefined): MachineOptions {
  const kernel = flags.kernel ?? image?.kernel;
  if (kernel === undefined) throw new UsageError('E_OPTION', 'no kernel; set one with --kernel');
  const initrd = flags.initrd ?? (flags.kernel === undefined ? image?.initrd : undefined);
  const base = flags.cmdline ?? image?.commandLine ?? DEFAULT_COMMAND_LINE;
  const commandLine = [base, flags.append].filter((text) => text !== undefined).join(' ');
  if (flags.watch === true && !('device' in flags)) {
    throw new UsageError('E_OPTION', '--watch goes with --device');
  }
  const { transport } = flags.console ?? {};
  return {
    kernel,
    ...(initrd === undefined ? {} : { initrd }),
    commandLine,
    ...(flags.memory === undefined ? {} : { memory: flags.memory }),
    ...(flags.hugepages === undefined ? {} : { hugePages: flags.hugepages }),
    ...(flags.cpus === undefined ? {} : { cpus: flags.cpus }),
    ...(flags.hideCpuFeature === undefined ? {} : { hideCpuFeatures: flags.hideCpuFeature }),
    ...deviceOptions(
      { ...flags },
      parseRings(flags.ring ?? []),
      transport === undefined ? {} : { transport },
    ),
    ...(flags.bootProtocol === undefined ? {} : { bootProtocol: flags.bootProtocol }),
    ...(flags.smbios === undefined ? {} : { smbios: parseSmbios(flags.smbios) }),
    ...(flags.transport === undefined ? {} : { transport: flags.transport }),
    ...(flags.notify === undefined ? {} : { notify: flags.notify }),
    ...(flags.onReboot === undefined ? {} : { onReboot: flags.onReboot }),
    ...traceOption(flags),
    ...(flags.check === undefined ? {} : { check: flags.check }),
  };
}

/** The value of --trace that is not a file. */
const SUMMARY = 'summary';

/** True when --trace=summary requests the table. */
export function wantsSummary(flags: RunFlags): boolean {
  return flags.trace?.includes(SUMMARY) ?? false;
}

/** The file that --trace names. @throws UsageError when there are several */
function traceFile(flags: RunFlags): string | undefined {
  const files = (flags.trace ?? []).filter((target) => target !== SUMMARY);
  if (files.length > 1) {
    throw new UsageError('E_OPTION', `one --trace file is enough: ${files.join(' or ')}`);
  }
  return files[0];
}

function traceOption(flags: RunFlags): Pick<MachineOptions, 'trace'> {
  const file = traceFile(flags);
  if (flags.trace === undefined) return {};
  return { trace: file === undefined ? {} : { file } };
}
