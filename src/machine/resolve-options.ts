/** Checks what a caller asked for, once, and fills in what was left out. */
import { freemem, totalmem } from 'node:os';
import { GUEST_CID_MAX, GUEST_CID_MIN } from '../abi/virtio-vsock.ts';
import { UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import type {
  DiskOptions,
  MachineOptions,
  NetOptions,
  OwnDeviceOptions,
  RingOptions,
  VsockOptions,
} from './options.ts';

/** The port that the agent of nodevmm's own guests listens on. */
export const AGENT_PORT = 'org.nodevmm.agent';
/** The console of nodevmm's guests; the serial port prints what comes before it. */
export const DEFAULT_COMMAND_LINE = 'earlycon=uart8250,io,0x3f8 console=hvc0 quiet panic=-1';

const DEFAULT_MEMORY = 512 * MiB;
const MEMORY_MIN = 32 * MiB;
const CPUS_MAX = 16;
/** Slots of the bus, less the host bridge's. */
const DEVICES_MAX = 31;

/** Complete options. */
export interface ResolvedOptions {
  readonly kernel: string;
  readonly initrd?: string;
  readonly commandLine: string;
  readonly bootProtocol: 'auto' | 'pvh' | 'linux64';
  readonly memory: number;
  readonly hugePages: boolean;
  readonly cpus: number;
  readonly hideCpuFeatures: readonly string[];
  readonly disks: readonly DiskOptions[];
  readonly nets: readonly NetOptions[];
  readonly devices: readonly OwnDeviceOptions[];
  readonly rng: { readonly ring: RingOptions } | undefined;
  readonly consoleRing: RingOptions;
  readonly vsock: VsockOptions | undefined;
  readonly agent: string | undefined;
  readonly onReboot: 'restart' | 'exit';
  readonly notify: 'io' | 'memory';
}

/** @throws UsageError naming the option and what to do */
export function resolveOptions(options: MachineOptions): ResolvedOptions {
  const { memory = DEFAULT_MEMORY, cpus = 1, disks = [], nets = [], rng = true } = options;
  checkMemory(memory);
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > CPUS_MAX) {
    throw new UsageError('E_CPUS', `${cpus} vCPUs cannot be had; choose 1 to ${CPUS_MAX}`);
  }
  const { vsock } = options;
  if (vsock !== undefined) checkVsock(vsock);
  const single = [rng !== false, vsock !== undefined].filter((there) => there).length;
  const own = options.devices ?? [];
  const devices = 1 + disks.length + nets.length + own.length + single;
  if (devices > DEVICES_MAX) {
    throw new UsageError(
      'E_DEVICES',
      `${devices} devices are too many for one PCI bus; leave out ${devices - DEVICES_MAX}`,
    );
  }
  nets.forEach(checkModel);
  const rngRing = typeof rng === 'boolean' ? undefined : rng.ring;
  for (const { ring } of [
    ...disks,
    ...nets,
    ...own,
    { ring: rngRing },
    { ...options.console },
    { ...vsock },
  ]) {
    checkRing(ring);
  }
  return Object.freeze({
    kernel: options.kernel,
    ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    commandLine: options.commandLine ?? DEFAULT_COMMAND_LINE,
    bootProtocol: options.bootProtocol ?? 'auto',
    memory,
    hugePages: options.hugePages ?? false,
    cpus,
    hideCpuFeatures: options.hideCpuFeatures ?? [],
    disks,
    nets,
    devices: own,
    rng: rng === false ? undefined : { ring: rng === true ? {} : (rng.ring ?? {}) },
    consoleRing: options.console?.ring ?? {},
    vsock,
    agent: options.agent === null ? undefined : (options.agent ?? AGENT_PORT),
    onReboot: options.onReboot ?? 'restart',
    notify: options.notify ?? 'io',
  });
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
