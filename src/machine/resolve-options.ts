/** Checks the caller's options, once, and fills in the defaults. */
import { freemem, totalmem } from 'node:os';
import { dirname, resolve } from 'node:path';
import { checkSmbios, SMBIOS } from '../boot/smbios.ts';
import { KERNEL_SERIES } from '../guest/kernel.ts';
import { GUEST_IMAGES } from '../guest/recipe.ts';
import { UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import {
  alternatives,
  checkOptions,
  choice,
  fieldsOf,
  flag,
  hasOption,
  integer,
  list,
  number,
  type OptionSchema,
  type OtherOptions,
  options,
  text,
  value,
} from '../options/option-schema.ts';
import { VIRTIO_MMIO_WINDOWS } from '../platform/layout.ts';
import { vfioType } from '../vfio/vfio-type.ts';
import { balloonType } from '../virtio/device/balloon/balloon.ts';
import { iommuType } from '../virtio/device/iommu/iommu.ts';
import {
  type CarriedOptions,
  type DeviceContext,
  type IommuMode,
  type MachineDeviceOptions,
  type PolledOptions,
  type PollMode,
  type RingOptions,
  TRANSPORTS,
  type TransportName,
  type VhostMode,
} from '../virtio/device-type.ts';
import {
  backendOf,
  DEVICE_TYPES,
  type MachineBackend,
  type MachineDeviceType,
} from './devices/device-types.ts';
import { checkGrowth, checkOthers } from './memory-size.ts';
import type { MachineOptions } from './options.ts';

/** The port that the agent of nodevmm's own guests listens on. */
export const AGENT_PORT = 'org.nodevmm.agent';
/**
 * The console of nodevmm's guests; the serial port shows what is printed before it works. `quiet`
 * comes first: else the early console prints all that the kernel has logged by then, which takes 3 s in the lab.
 */
export const DEFAULT_COMMAND_LINE = 'quiet earlycon=uart8250,io,0x3f8 console=hvc0 panic=-1';

const MEMORY_MIN = 32 * MiB;
const CPUS_MAX = 16;
/** Slots of the bus, less the host bridge's, and windows in memory. */
const DEVICES_MAX: Readonly<Record<TransportName, number>> = {
  pci: 31,
  mmio: VIRTIO_MMIO_WINDOWS,
};

/** A requested device, with the defaults filled in. */
export interface ResolvedDevice {
  readonly type: MachineDeviceType;
  readonly backend: MachineBackend;
  /** The backend's own options. */
  readonly options: object;
  readonly context: DeviceContext;
  readonly transport: TransportName;
  readonly ring: RingOptions;
  readonly vhost: VhostMode;
  readonly poll: PollMode;
  readonly iommu: IommuMode;
}

/** The choice of what is booted. */
export type BootOptions = Pick<MachineOptions, 'kernel' | 'guest' | 'guestKernel'>;

/** What concerns the program that creates a machine, not the machine. */
type Outer = 'lab' | 'onProgress';
type Absent = keyof BootOptions | 'initrd' | 'trace' | 'name' | 'maxCpus';
type Defaults = Omit<MachineOptions, keyof MachineDeviceOptions | Absent | Outer>;

/** Complete options. */
export interface ResolvedOptions
  extends Pick<MachineOptions, Absent>,
    Required<Omit<Defaults, 'agent'>> {
  readonly agent: string | undefined;
  readonly transport: TransportName;
  /** All but the console. */
  readonly devices: readonly ResolvedDevice[];
  readonly console: CarriedOptions;
}

const DEFAULTS: Required<Defaults> = {
  commandLine: DEFAULT_COMMAND_LINE,
  bootProtocol: 'auto',
  smbios: {},
  memory: 512 * MiB,
  hugePages: false,
  cpus: 1,
  hideCpuFeatures: [],
  agent: AGENT_PORT,
  notify: 'io',
  check: false,
  onReboot: 'restart',
};

type ScalarOptions = Omit<
  MachineOptions,
  keyof BootOptions | Exclude<keyof MachineDeviceOptions, 'transport'>
>;

const BOOTED: OtherOptions<BootOptions> = {
  kernel: text({ value: 'FILE' }),
  guest: choice(GUEST_IMAGES),
  guestKernel: choice(KERNEL_SERIES),
};

const SCALARS: OtherOptions<ScalarOptions> = {
  initrd: text({
    value: 'FILE',
    help: 'initial RAM disk; default with no --kernel: that of --guest',
  }),
  commandLine: value((given) => typeof given === 'string', 'a string'),
  bootProtocol: choice(['auto', 'pvh', 'linux64', 'linux32'], {
    value: 'NAME',
    help: 'how the kernel is entered; linux64 and linux32 have a bzImage unpack and place itself (default: auto)',
  }),
  smbios: SMBIOS,
  memory: number(() => true, {
    code: 'E_MEMORY',
    expected: 'a whole MiB count in bytes',
    bytes: true,
    value: 'SIZE',
    help: 'RAM: 512M, 4G; a bare number is MiB (default: 512M)',
  }),
  hugePages: flag({ key: 'hugepages', help: 'back guest RAM with huge pages' }),
  cpus: integer(1, CPUS_MAX, { code: 'E_CPUS', value: 'N', help: 'vCPUs (default: 1)' }),
  maxCpus: integer(1, CPUS_MAX, {
    code: 'E_CPUS',
    key: 'max-cpus',
    value: 'N',
    help: 'vCPUs that it can have while it runs, see vm cpus',
  }),
  hideCpuFeatures: list(text(), {
    key: 'hide-cpu-feature',
    value: 'NAMES',
    help: 'features to hide, by their names in /proc/cpuinfo',
  }),
  lab: value(
    (given) => given === 'never' || given === 'auto' || given === 'always',
    'never, auto, or always',
  ),
  name: value((given) => typeof given === 'string', 'a string'),
  onProgress: value((given) => typeof given === 'function', 'a function'),
  agent: value((given) => given === null || typeof given === 'string', 'a string or null'),
  transport: choice(TRANSPORTS, {
    code: 'E_TRANSPORT',
    value: 'KIND',
    help: 'transport of the virtio devices that name none (default: pci)',
  }),
  notify: choice(['io', 'memory'], {
    value: 'KIND',
    help: 'where drivers kick queues (default: io)',
  }),
  trace: options({}, { file: text() }),
  check: flag({ help: 'report violations of virtio by drivers and devices' }),
  onReboot: choice(['restart', 'exit'], {
    value: 'ACTION',
    help: 'what a reboot by the guest does',
  }),
};

/** What a machine boots. */
export const BOOT: OptionSchema<BootOptions> = options<BootOptions>({}, BOOTED);

/** A machine's options, except what it boots and its devices. */
export const MACHINE: OptionSchema<ScalarOptions> = options<ScalarOptions>({}, SCALARS);

const isObject = (given: unknown): boolean =>
  typeof given === 'object' && given !== null && !Array.isArray(given);

/** Its elements are checked by their backends. */
function shapeOf({ number: count, cli }: MachineDeviceType): OptionSchema {
  if (count === 'any') return list(value(isObject, 'an object'));
  if (count !== 'by-default' && cli?.bare !== true) return value(isObject, 'an object');
  return value(
    (given) => typeof given === 'boolean' || isObject(given),
    'true, false or an object',
  );
}

/** @throws UsageError naming the option and how to fix it */
export function resolveOptions(asked: MachineOptions): ResolvedOptions {
  const shapes = Object.fromEntries(DEVICE_TYPES.map((type) => [type.key, shapeOf(type)]));
  const schema = options({}, { ...BOOTED, ...SCALARS, ...shapes } as object);
  const checked = checkOptions(schema as OptionSchema<MachineOptions>, asked, '');
  const {
    transport = 'pci',
    agent,
    lab: _lab,
    onProgress: _onProgress,
    ...scalars
  } = { ...DEFAULTS, ...checked };
  checkBoot(scalars);
  checkMemory(scalars.memory);
  checkCpus(scalars.cpus, scalars.maxCpus);
  checkSmbios(scalars.smbios);
  const all = DEVICE_TYPES.flatMap((type) =>
    resolveDevices(type, wantedOf(type, checked), transport),
  );
  checkCount(all);
  checkIommu(scalars.hugePages, all);
  checkBalloon(all);
  checkGrowth(scalars.memory, all);
  checkOthers(scalars.hugePages, all);
  const console = all.find(({ type }) => type.number === 'always');
  return Object.freeze({
    ...scalars,
    transport,
    agent: agent ?? undefined,
    devices: all.filter((device) => device !== console),
    console: {
      ring: console?.ring ?? {},
      transport: console?.transport ?? transport,
      iommu: console?.iommu ?? 'auto',
    },
  });
}

const TRANSPORT_SHAPE = { transport: SCALARS.transport };

/**
 * A device for a machine that runs.
 * @param names of the devices that it has
 * @throws UsageError naming the option, or when it is not exactly one device
 */
export function resolveAddition(
  asked: MachineDeviceOptions,
  names: readonly string[],
): ResolvedDevice {
  const shapes = Object.fromEntries(DEVICE_TYPES.map((type) => [type.key, shapeOf(type)]));
  const schema = options({}, { ...TRANSPORT_SHAPE, ...shapes } as object);
  const checked = checkOptions(schema as OptionSchema<MachineDeviceOptions>, asked, '');
  const { transport = 'pci' } = checked;
  const all = DEVICE_TYPES.filter(({ key }) => Object.hasOwn(checked, key)).flatMap((type) =>
    resolveDevices(type, wantedOf(type, checked), transport, names),
  );
  const [device] = all;
  if (device !== undefined && all.length === 1) return device;
  throw new UsageError(
    'E_OPTION',
    `${all.length} devices were given`,
    "add one at a time, as in { disks: [{ path: 'data.raw' }] }",
  );
}

/** Options of devices, with the paths of their files as another process needs them. */
export function withAbsolutePaths(asked: MachineDeviceOptions): MachineDeviceOptions {
  const whole: Record<string, unknown> = { ...asked };
  for (const type of DEVICE_TYPES) {
    const given = whole[type.key];
    if (!Array.isArray(given)) continue;
    whole[type.key] = given.map((device: Given) => {
      const absolute: Record<string, unknown> = { ...device };
      for (const { path, details } of fieldsOf(backendOf(type, device).options)) {
        const [name = ''] = path;
        const file = device[name];
        if (details.path !== undefined && typeof file === 'string') absolute[name] = resolve(file);
      }
      return absolute;
    });
  }
  return whole;
}

/** The folders of the files that a machine writes to, and of those that it has to see change meanwhile. */
export function writtenFolders(machine: MachineOptions): string[] {
  const ofDevices = DEVICE_TYPES.flatMap((type) =>
    wantedOf(type, machine).flatMap((device) =>
      fieldsOf(backendOf(type, device).options).flatMap(({ path: [name = ''], details }) => {
        const file = device[name];
        if (details.path === undefined || typeof file !== 'string') return [];
        if (details.shared?.(device) === false) return [];
        return details.path === 'folder' ? resolve(file) : folderOf(file);
      }),
    ),
  );
  const trace = machine.trace?.file;
  return [...new Set([...ofDevices, ...(trace === undefined ? [] : [folderOf(trace)])])];
}

/** The folder of a file. */
export const folderOf = (file: string): string => dirname(resolve(file));

/**
 * The devices of a type, in the order of their options.
 * @param machine the transport of those that name none
 * @param taken names that other devices have
 * @throws UsageError naming the option
 */
export function resolveDevices(
  type: MachineDeviceType,
  wanted: readonly Given[],
  machine: TransportName,
  taken: readonly string[] = [],
): ResolvedDevice[] {
  const counts = new Map<string, number>();
  return wanted.map((given, index) => {
    const name = type.number === 'any' ? `${type.key}[${index}]` : type.key;
    const backend = backendOf(type, given);
    const note = backend.selector === undefined ? '' : `${backend.name} backend`;
    const checked = checkOptions(backend.options, given, name, note) as PolledOptions;
    backend.check?.(checked);
    const {
      ring = {},
      transport = machine,
      vhost = 'off',
      poll = 'off',
      iommu = 'auto',
      ...own
    } = checked as PolledOptions & {
      readonly vhost?: VhostMode;
    };
    const prefix = backend.prefix?.(own) ?? type.name;
    let number = counts.get(prefix) ?? 0;
    while (taken.includes(`${prefix}${number}`)) number++;
    counts.set(prefix, number + 1);
    return {
      type,
      backend,
      options: own,
      context: {
        name: `${prefix}${number}`,
        index: Math.max(index, number),
        count: wanted.length,
      },
      // A device without the choice is on the PCI bus.
      transport: hasOption(backend.options, 'transport') ? transport : 'pci',
      ring,
      vhost,
      poll,
      iommu,
    };
  });
}

type Given = Readonly<Record<string, unknown>>;

/** A machine's options for the devices of a type. */
export function wantedOf(
  { key, number: count }: MachineDeviceType,
  asked: object,
): readonly Given[] {
  const given = (asked as Given)[key];
  if (count === 'any') return (given ?? []) as readonly Given[];
  if (given === false || (given === undefined && count === 'on-request')) return [];
  return [given === true || given === undefined ? {} : (given as Given)];
}

function checkCount(devices: readonly ResolvedDevice[]): void {
  for (const [name, most] of Object.entries(DEVICES_MAX)) {
    const count = devices.filter(({ transport }) => transport === name).length;
    if (count <= most) continue;
    const where = name === 'pci' ? 'one PCI bus' : 'virtio-mmio';
    const other = name === 'pci' ? 'mmio' : 'pci';
    throw new UsageError(
      'E_DEVICES',
      `${count} devices are too many for ${where}`,
      `leave out ${count - most}, or put them on transport=${other}`,
    );
  }
}

function checkIommu(hugePages: boolean, devices: readonly ResolvedDevice[]): void {
  if (!devices.some(({ type }) => type === iommuType)) {
    const behind = devices.find(({ iommu }) => iommu === 'on');
    if (behind === undefined) return;
    throw new UsageError(
      'E_IOMMU',
      `${behind.context.name} is to be behind an IOMMU, which the machine does not have`,
      'set iommu for the machine (--iommu), or leave it out for the device',
    );
  }
  if (!hugePages) return;
  throw new UsageError(
    'E_IOMMU',
    'guest RAM in huge pages cannot be mapped page by page behind an IOMMU',
    'leave out hugePages or iommu',
  );
}

/** Hardware reaches pages where they were when they were locked. */
function checkBalloon(devices: readonly ResolvedDevice[]): void {
  const balloon = devices.find(({ type }) => type === balloonType);
  const locking = devices.find(
    ({ type, backend, options: own }) =>
      type.name === vfioType.name || backend.ram?.(own) === 'locked',
  );
  if (balloon === undefined || locking === undefined) return;
  throw new UsageError(
    'E_BALLOON',
    `a balloon cannot give back RAM that ${locking.context.name} has locked`,
    'leave out one of them',
  );
}

function checkBoot({ kernel, guest, guestKernel }: BootOptions): void {
  if (kernel === undefined && guest === undefined) {
    throw new UsageError(
      'E_OPTION',
      'the machine has nothing to boot',
      `set guest (${alternatives(GUEST_IMAGES)}) or kernel (a file)`,
    );
  }
  const other = guest !== undefined ? 'guest' : guestKernel !== undefined ? 'guestKernel' : '';
  if (kernel === undefined || other === '') return;
  throw new UsageError(
    'E_OPTION',
    `kernel and ${other} exclude each other`,
    'leave out one of them',
  );
}

function checkCpus(cpus: number, maxCpus = cpus): void {
  if (maxCpus >= cpus) return;
  throw new UsageError(
    'E_CPUS',
    `maxCpus is ${maxCpus}, and fewer than the ${cpus} that the machine has`,
    'increase it',
  );
}

function checkMemory(memory: number): void {
  const inMiB = memory / MiB;
  if (!Number.isInteger(inMiB)) {
    throw new UsageError('E_MEMORY', `memory must be whole MiB, not ${memory} bytes`, 'round it');
  }
  if (memory < MEMORY_MIN) {
    throw new UsageError(
      'E_MEMORY',
      `${inMiB} MiB of memory are too little for Linux`,
      `the minimum is ${MEMORY_MIN / MiB}`,
    );
  }
  if (memory > totalmem()) {
    const has = Math.floor(totalmem() / MiB);
    const free = Math.floor(freemem() / MiB);
    throw new UsageError(
      'E_MEMORY',
      `${inMiB} MiB of memory are more than the ${has} MiB that this host has`,
      `use at most ${free}`,
    );
  }
}
