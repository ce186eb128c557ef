/** nodevmm as a subject: its own process, which does nothing else. */
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { ExecResult } from '../../src/agent/exec.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import type { MachineOptions } from '../../src/machine/options.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import type { DiskOptions } from '../../src/virtio/device/blk/blk-type.ts';
import type { NetOptions } from '../../src/virtio/device/net/net-type.ts';
import type { PollMode, RingOptions } from '../../src/virtio/device-type.ts';
import { Child } from './child.ts';
import {
  COMMAND_LINE,
  type GuestSpec,
  type IommuMode,
  iommuArguments,
  type Nic,
  type RunningGuest,
  type Subject,
} from './subject.ts';

const PROGRAM = fileURLToPath(new URL('./nodevmm-process.js', import.meta.url));

/** What differs from the defaults, and how the row is shown. */
export interface Variant
  extends Pick<Subject, 'peer' | 'variant' | 'kernel' | 'lacking' | 'passes' | 'rests'> {
  readonly notify?: NonNullable<MachineOptions['notify']>;
  readonly engine?: NonNullable<DiskOptions['engine']>;
  readonly ring?: RingOptions;
  /** How the thread of its disks and its network interface waits. */
  readonly poll?: PollMode;
  /** A folder of the host that it mounts. */
  readonly shares?: MachineOptions['fileSystems'];
  /** Its network interface. Default virtio, its queues served by a worker. */
  readonly nic?: Nic;
  /** Its devices are behind an IOMMU. */
  readonly iommu?: IommuMode;
}

/** A command for the guest, from the parent to the process. */
export interface ProcessRequest {
  readonly id: number;
  readonly argv: readonly string[];
}

/** A reply of the process; the first message, with id 0, reports that the guest's agent is up. */
export interface ProcessReply {
  readonly id: number;
  /** Absent: the error. */
  readonly result?: ExecResult;
  readonly error?: string;
}

/** The machine that a process runs. */
export function machineOptions(spec: GuestSpec, variant: Variant): MachineOptions {
  const { notify, engine, ring = {}, poll, nic = 'virtio', shares = [], iommu } = variant;
  const served = { ring, ...(poll === undefined ? {} : { poll }) };
  return {
    kernel: spec.kernel,
    initrd: spec.initrd,
    commandLine: [COMMAND_LINE, spec.append ?? '', iommuArguments(iommu)].join(' ').trim(),
    iommu: iommu !== undefined,
    memory: spec.memoryMiB * MiB,
    disks: (spec.disks ?? []).map(({ path, direct, vhostUser, vdpa }) => {
      if (vdpa !== undefined) return { vdpa, ring };
      if (vhostUser !== undefined) return { vhostUser: { socket: vhostUser }, ring };
      const own = engine === undefined ? {} : { engine };
      return { path, direct, readOnly: true, ...served, ...own };
    }),
    nets: [
      ...(spec.tap === undefined ? [] : [netOptions(spec.tap, nic, served)]),
      ...(spec.vhostUser === undefined ? [] : [{ vhostUser: { socket: spec.vhostUser }, ring }]),
      ...(spec.vdpa === undefined ? [] : [{ vdpa: spec.vdpa, ring }]),
    ],
    vfio: spec.vfio === undefined ? [] : [{ address: spec.vfio, bind: true }],
    fileSystems: shares,
    ...(notify === undefined ? {} : { notify }),
  };
}

function netOptions(tap: string, nic: Nic, served: Pick<NetOptions, 'ring' | 'poll'>): NetOptions {
  if (nic === 'e1000') return { tap, model: 'e1000' };
  return { tap, ...served, ...(nic === 'vhost' ? { vhost: 'on' } : {}) };
}

/** nodevmm, with its defaults or a variant of them. */
export function nodevmm(name: string, variant: Variant): Subject {
  return { ...variant, name, reference: false, boot: (spec) => boot(spec, variant) };
}

async function boot(spec: GuestSpec, variant: Variant): Promise<RunningGuest> {
  const options = JSON.stringify(machineOptions(spec, variant));
  await using opened = new AsyncCleanupStack();
  const child = opened.use(new Child([process.execPath, PROGRAM, options], { ipc: true }));
  await child.during('the agent', once(child.process, 'message'));
  const waiting = new Map<number, (reply: ProcessReply) => void>();
  child.process.on('message', (reply: ProcessReply) => {
    waiting.get(reply.id)?.(reply);
    waiting.delete(reply.id);
  });
  let last = 0;
  const exec = async (argv: readonly string[], timeoutMs?: number): Promise<ExecResult> => {
    const id = ++last;
    const answered = new Promise<ProcessReply>((resolve) => waiting.set(id, resolve));
    child.process.send({ id, argv } satisfies ProcessRequest);
    const { result, error } = await child.during(argv[0] ?? '', answered, timeoutMs);
    if (result === undefined) throw new Error(error);
    const { stdout, stderr, exitCode } = result;
    return { stdout: Buffer.from(stdout), stderr: Buffer.from(stderr), exitCode };
  };
  const resources = opened.move();
  return {
    pid: child.process.pid ?? 0,
    exec,
    rest: (resting) => child.pause(resting),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
