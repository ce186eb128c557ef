/** Checks what a caller asked for, once, and fills in what was left out. */
import { freemem, totalmem } from 'node:os';
import { VHOST_USER_MAX_CONFIG_SIZE } from '../abi/vhost-user.ts';
import { GUEST_CID_MAX, GUEST_CID_MIN } from '../abi/virtio-vsock.ts';
import type { BootProtocol } from '../boot/boot.ts';
import { checkSmbios, type SmbiosOptions } from '../boot/smbios-options.ts';
import { UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import { VIRTIO_MMIO_WINDOWS } from '../platform/layout.ts';
import type {
  CarriedOptions,
  DiskOptions,
  FileSystemOptions,
  MachineOptions,
  NetOptions,
  OwnDeviceOptions,
  RingOptions,
  TransportName,
  VhostUserOptions,
  VsockOptions,
} from './options.ts';

/** The port that the agent of nodevmm's own guests listens on. */
export const AGENT_PORT = 'org.nodevmm.agent';
/** The console of nodevmm's guests; the serial port prints what comes before it. */
export const DEFAULT_COMMAND_LINE = 'earlycon=uart8250,io,0x3f8 console=hvc0 quiet panic=-1';

const DEFAULT_MEMORY = 512 * MiB;
const MEMORY_MIN = 32 * MiB;
const CPUS_MAX = 16;
/** Slots of the bus, less the host bridge's, and windows in memory. */
const DEVICES_MAX: Readonly<Record<TransportName, number>> = {
  pci: 31,
  mmio: VIRTIO_MMIO_WINDOWS,
};

/** Complete options. */
export interface ResolvedOptions {
  readonly kernel: string;
  readonly initrd?: string;
  readonly commandLine: string;
  readonly bootProtocol: BootProtocol;
  readonly smbios: SmbiosOptions;
  readonly memory: number;
  readonly hugePages: boolean;
  readonly cpus: number;
  readonly hideCpuFeatures: readonly string[];
  readonly disks: readonly DiskOptions[];
  readonly nets: readonly NetOptions[];
  readonly fileSystems: readonly FileSystemOptions[];
  readonly devices: readonly OwnDeviceOptions[];
  readonly vhostUser: readonly VhostUserOptions[];
  readonly rng: CarriedOptions | undefined;
  readonly console: CarriedOptions;
  readonly vsock: VsockOptions | undefined;
  readonly agent: string | undefined;
  readonly onReboot: 'restart' | 'exit';
  readonly notify: 'io' | 'memory';
  readonly transport: TransportName;
  readonly trace: { readonly file?: string } | undefined;
  readonly check: boolean;
}

/** @throws UsageError naming the option and what to do */
export function resolveOptions(options: MachineOptions): ResolvedOptions {
  const { memory = DEFAULT_MEMORY, cpus = 1, disks = [], nets = [], rng = true } = options;
  checkMemory(memory);
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > CPUS_MAX) {
    throw new UsageError('E_CPUS', `${cpus} vCPUs cannot be had; choose 1 to ${CPUS_MAX}`);
  }
  const { vsock, smbios = {} } = options;
  checkSmbios(smbios);
  if (vsock !== undefined) checkVsock(vsock);
  const own = options.devices ?? [];
  const { vhostUser = [], fileSystems = [] } = options;
  vhostUser.forEach(checkVhostUser);
  const console = options.console ?? {};
  nets.forEach(checkModel);
  const cards = nets.map((net) => (net.model === 'e1000' ? ({ transport: 'pci' } as const) : net));
  const carried: CarriedOptions[] = [console, ...disks, ...cards, ...own, ...vhostUser];
  carried.push(...fileSystems);
  if (rng !== false) carried.push(rng === true ? {} : rng);
  if (vsock !== undefined) carried.push(vsock);
  for (const { ring, transport } of carried) {
    checkRing(ring);
    checkTransport(transport);
  }
  const { transport = 'pci' } = options;
  checkTransport(transport);
  checkCount(carried, transport);
  return Object.freeze({
    kernel: options.kernel,
    ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    commandLine: options.commandLine ?? DEFAULT_COMMAND_LINE,
    bootProtocol: options.bootProtocol ?? 'auto',
    smbios,
    memory,
    hugePages: options.hugePages ?? false,
    cpus,
    hideCpuFeatures: options.hideCpuFeatures ?? [],
    disks,
    nets,
    fileSystems,
    devices: own,
    vhostUser,
    rng: rng === false ? undefined : rng === true ? {} : rng,
    console,
    vsock,
    agent: options.agent === null ? undefined : (options.agent ?? AGENT_PORT),
    onReboot: options.onReboot ?? 'restart',
    notify: options.notify ?? 'io',
    transport,
    trace: options.trace,
    check: options.check ?? false,
  });
}

/** Also as pairs no more than a message can name (VHOST_USER_VRING_IDX_MASK). */
const VHOST_USER_QUEUES_MAX = 64;

function checkVhostUser({ type, socket, queues = 1, tag, configSize = 0 }: VhostUserOptions): void {
  const refuse = (why: string): never => {
    throw new UsageError('E_VHOST_USER', `vhost-user device at ${socket}: ${why}`);
  };
  if (typeof type !== 'number' && !['net', 'blk', 'fs'].includes(type)) {
    refuse(`there is no type ${type}; take net, blk, fs or a device ID`);
  }
  if (typeof type === 'number' && !(Number.isInteger(type) && type >= 1 && type <= 63)) {
    refuse(`there is no device ID ${type}; take one of virtio 1.3 §5`);
  }
  if (!Number.isInteger(queues) || queues < 1 || queues > VHOST_USER_QUEUES_MAX) {
    refuse(`${queues} queues cannot be had; choose 1 to ${VHOST_USER_QUEUES_MAX}`);
  }
  if (!Number.isInteger(configSize) || configSize < 0 || configSize > VHOST_USER_MAX_CONFIG_SIZE) {
    refuse(`${configSize} bytes of configuration; choose 0 to ${VHOST_USER_MAX_CONFIG_SIZE}`);
  }
  const bytes = Buffer.byteLength(tag ?? '');
  if (type === 'fs' && (bytes === 0 || bytes > 36)) refuse('give it a tag of 1 to 36 bytes');
}

function checkTransport(transport: TransportName | undefined): void {
  if (transport === undefined || transport in DEVICES_MAX) return;
  throw new UsageError('E_TRANSPORT', `there is no transport ${transport}; take pci or mmio`);
}

function checkCount(devices: readonly CarriedOptions[], machine: TransportName): void {
  for (const [name, most] of Object.entries(DEVICES_MAX)) {
    const count = devices.filter(({ transport = machine }) => transport === name).length;
    if (count <= most) continue;
    const where = name === 'pci' ? 'one PCI bus' : 'virtio-mmio';
    const other = name === 'pci' ? 'mmio' : 'pci';
    throw new UsageError(
      'E_DEVICES',
      `${count} devices are too many for ${where}; leave out ${count - most}, or put them on transport=${other}`,
    );
  }
}

function checkMemory(memory: number): void {
  const inMiB = memory / MiB;
  if (!Number.isInteger(inMiB)) {
    throw new UsageError('E_MEMORY', `memory must be whole MiB, not ${memory} bytes; round it`);
  }
  if (memory < MEMORY_MIN) {
    throw new UsageError(
      'E_MEMORY',
      `${inMiB} MiB of memory are too little for Linux; give at least ${MEMORY_MIN / MiB}`,
    );
  }
  if (memory > totalmem()) {
    const has = Math.floor(totalmem() / MiB);
    const free = Math.floor(freemem() / MiB);
    throw new UsageError(
      'E_MEMORY',
      `${inMiB} MiB of memory are more than the ${has} MiB that this host has; give at most ${free}`,
    );
  }
}

/** What an emulated card has; everything else is virtio's. */
const NIC_OPTIONS: ReadonlySet<string> = new Set(['model', 'tap', 'mac', 'hostAddress', 'mtu']);

function checkModel(net: NetOptions): void {
  const { model = 'virtio' } = net;
  if (model === 'virtio') return;
  if (model !== 'e1000') {
    throw new UsageError('E_NET_MODEL', `there is no network card ${model}; take virtio or e1000`);
  }
  const given = Object.entries(net).filter(([, value]) => value !== undefined);
  const foreign = given.find(([key]) => !NIC_OPTIONS.has(key))?.[0];
  if (foreign === undefined) return;
  throw new UsageError(
    'E_NET_MODEL',
    `an e1000 network card has no ${foreign}; leave it out, or take the model virtio`,
  );
}

function checkVsock({ cid, path, vhost }: VsockOptions): void {
  if (!Number.isInteger(cid) || cid < GUEST_CID_MIN || cid > GUEST_CID_MAX) {
    throw new UsageError(
      'E_CID',
      `a guest cannot have the context ID ${cid}; choose ${GUEST_CID_MIN} to ${GUEST_CID_MAX}`,
    );
  }
  if (path === undefined && vhost !== 'on') {
    throw new UsageError(
      'E_VSOCK',
      'programs of the host have no way to the socket device; give it a path, or use vhost=on',
    );
  }
}

function checkRing(ring: RingOptions | undefined): void {
  const size = ring?.queueSize;
  if (size === undefined) return;
  if (!Number.isInteger(size) || size < 2 || size > 32768 || (size & (size - 1)) !== 0) {
    throw new UsageError(
      'E_QUEUE_SIZE',
      `a queue of ${size} descriptors cannot be had; choose a power of two from 2 to 32768`,
    );
  }
}
