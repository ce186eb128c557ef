/** The options of `nodevmm run`, and the machine they describe. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { SMBIOS, type SmbiosOptions } from '../../boot/smbios.ts';
import { KERNEL_SERIES, type KernelSeries } from '../../guest/kernel.ts';
import { UsageError } from '../../host/errors.ts';
import type { MachineOptions } from '../../machine/options.ts';
import { DEFAULT_COMMAND_LINE, MACHINE } from '../../machine/resolve-options.ts';
import { fieldsOf, given, type OptionField } from '../../options/option-schema.ts';
import { bytesOf, keysHelp, optionsFromKeys, splitKeys } from '../../options/option-text.ts';
import type { TransportName } from '../../virtio/device-type.ts';
import {
  addDeviceOptions,
  collect,
  deviceOptions,
  parseRings,
  RING_KEYS,
} from './device-options.ts';

/** Where a console's output goes. */
export type ConsoleTarget =
  | { readonly to: 'tty' }
  | { readonly to: 'none' }
  | { readonly to: 'file'; readonly path: string; readonly append?: boolean };

/** The virtio console: where its output goes, and its transport. */
export type ConsoleFlag = ConsoleTarget & { readonly transport?: TransportName };

/** Option values from commander. */
export interface RunFlags {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly guest?: string;
  readonly guestKernel?: KernelSeries;
  readonly cmdline?: string;
  readonly append?: string;
  readonly module?: readonly string[];
  readonly watch?: boolean;
  readonly ring?: readonly string[];
  readonly console?: ConsoleFlag;
  readonly serial?: ConsoleTarget;
  readonly name?: string;
  readonly smbios?: readonly string[];
  readonly trace?: readonly string[];
  readonly lab?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  /** Those that are made from schemas: the machine's and its devices'. */
  readonly [option: string]: unknown;
}

/** Parses a size in bytes: `512M`, `4G`, `65536K`; a bare number counts MiB. */
export function parseMemory(text: string): number {
  const bytes = bytesOf(text);
  if (bytes === undefined) throw new InvalidArgumentError('Take for example 512M or 4G.');
  return bytes;
}

/** A whole number. */
export function parseCount(text: string): number {
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

const list = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  ...value.split(',').filter((name) => name !== ''),
];

/**
 * Adds one variable to those before it.
 * @param text `NAME=VALUE`, or `NAME` for its value here; an unset one is skipped
 */
export function collectVariable(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Readonly<Record<string, string>> {
  const [, name = '', given] = /^([^=]+)(?:=(.*))?$/s.exec(text) ?? [];
  if (name === '') throw new InvalidArgumentError('Take NAME or NAME=VALUE.');
  const value = given ?? process.env[name];
  return value === undefined ? before : { ...before, [name]: value };
}

/** The options of a machine that are neither devices nor objects. */
const MACHINE_FIELDS = fieldsOf(MACHINE).filter(({ path }) => path.length === 1);

/** The option for one of them. */
function optionOf({ key, type, choices, details }: OptionField): Option {
  const { value = '', help = '', bytes = false } = details;
  const option = new Option(`--${key}${type === 'flag' ? '' : ` <${value.toLowerCase()}>`}`, help);
  if (type === 'choice') option.choices(choices.map(String));
  if (type === 'number') option.argParser(bytes ? parseMemory : parseCount);
  if (type === 'list') option.argParser(list);
  return option;
}

/** Adds the options that describe the machine. */
export function addMachineOptions(command: Command): Command {
  command
    .option('--kernel <file>', 'bzImage or ELF vmlinux; default: the kernel of --guest')
    .option('--guest <name>', 'guest image to boot, see `nodevmm guest list`', 'minimal')
    .addOption(
      new Option(
        '--guest-kernel <series>',
        'kernel of the guest image; 6.12-amd64 has a driver for e1000 (default: 6.12)',
      ).choices([...KERNEL_SERIES]),
    )
    .option('--cmdline <text>', 'kernel command line, instead of the default one')
    .option('--append <text>', 'text to add to the kernel command line');
  for (const field of MACHINE_FIELDS) command.addOption(optionOf(field));
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
    .option(
      '--console <where>',
      'hvc0: tty, none, file:PATH or file:PATH,append (default: tty, none with a command); key: transport=',
      parseVirtioConsole,
    )
    .option(
      '--serial <where>',
      'ttyS0: tty, none, file:PATH or file:PATH,append (default: none)',
      parseConsole,
    )
    .option('--name <name>', 'what `nodevmm vm` calls the machine (default: the process id)')
    .option(
      '--smbios <key=value,...>',
      `strings of the SMBIOS tables; keys: ${SMBIOS_KEYS}; may be repeated`,
      collect,
    )
    .option(
      '--trace <file>',
      'write a trace for Perfetto to a file; summary: print a table at the end; may be given twice',
      collect,
    )
    .option('--lab', 'run in the emulated KVM host, see `nodevmm lab`')
    .option('--no-lab', "never use the lab, even if the host's KVM cannot run Linux");
}

/** What to boot: a kernel and what goes with it. */
export type BootImage = Pick<MachineOptions, 'kernel' | 'initrd' | 'commandLine'>;

/**
 * What the options have the machine boot.
 * @param image the guest image, or undefined when --kernel names the kernel
 * @throws UsageError when there is no kernel
 */
export function bootImage(flags: RunFlags, image: BootImage | undefined): BootImage {
  const kernel = flags.kernel ?? image?.kernel;
  if (kernel === undefined) throw new UsageError('E_OPTION', 'no kernel', 'set one with --kernel');
  const initrd = flags.initrd ?? (flags.kernel === undefined ? image?.initrd : undefined);
  const base = flags.cmdline ?? image?.commandLine ?? DEFAULT_COMMAND_LINE;
  const commandLine = [base, flags.append].filter((text) => text !== undefined).join(' ');
  return given({ kernel, initrd, commandLine });
}

/**
 * The machine that the options describe, except what it boots.
 * @throws UsageError when options contradict each other
 */
export function machineOptions(flags: RunFlags): Omit<MachineOptions, keyof BootImage> {
  if (flags.watch === true && !('device' in flags)) {
    throw new UsageError('E_OPTION', '--watch goes with --device');
  }
  const scalars = MACHINE_FIELDS.map((field) => [
    field.path[0],
    flags[optionOf(field).attributeName()],
  ]);
  const { initrd: _, ...own } = Object.fromEntries(scalars) as Partial<MachineOptions>;
  return given({
    ...own,
    ...deviceOptions(
      flags,
      parseRings(flags.ring ?? []),
      given({ transport: flags.console?.transport }),
    ),
    smbios: flags.smbios && parseSmbios(flags.smbios),
    trace: flags.trace && traceOption(flags.trace),
  });
}

const SMBIOS_KEYS = keysHelp(SMBIOS);

/**
 * Merges one or several `--smbios KEY=VALUE,...`; only `oem-string` may be repeated.
 * @throws UsageError
 */
function parseSmbios(texts: readonly string[]): SmbiosOptions {
  let options: SmbiosOptions = {};
  const oemStrings: string[] = [];
  for (const text of texts) {
    const said = `--smbios ${text}`;
    if (!/^[a-z-]+=/.test(text)) {
      throw new UsageError('E_OPTION', `${said} has no KEY=VALUE`, `it takes ${SMBIOS_KEYS}`);
    }
    const keys = splitKeys('--smbios', text, '');
    const { oemStrings: more = [], ...strings } = optionsFromKeys<SmbiosOptions>(
      SMBIOS,
      keys,
      said,
    );
    oemStrings.push(...more);
    const again = Object.keys(strings).find((key) => key in options);
    if (again !== undefined) throw new UsageError('E_OPTION', `${said} names ${again} again`);
    options = { ...options, ...strings };
  }
  return oemStrings.length === 0 ? options : { ...options, oemStrings };
}

/** The value of --trace that is not a file. */
const SUMMARY = 'summary';

/** True when --trace=summary requests the table. */
export function wantsSummary({ trace = [] }: RunFlags): boolean {
  return trace.includes(SUMMARY);
}

/** @throws UsageError when several files are named */
function traceOption(targets: readonly string[]): NonNullable<MachineOptions['trace']> {
  const files = targets.filter((target) => target !== SUMMARY);
  if (files.length > 1) {
    throw new UsageError('E_OPTION', `one --trace file is enough: ${files.join(' or ')}`);
  }
  return given({ file: files[0] });
}
