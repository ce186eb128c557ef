/** nodevmm as a subject: its own process, which does nothing else. */
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { ExecResult } from '../../src/agent/client.ts';
import type { MachineOptions } from '../../src/machine/options.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import type { DiskOptions } from '../../src/virtio/device/blk/blk-type.ts';
import type { NetOptions } from '../../src/virtio/device/net/net-type.ts';
import type { RingOptions } from '../../src/virtio/device-type.ts';
import { Child } from './child.ts';
import {
  COMMAND_LINE,
  type GuestSpec,
  type Nic,
  type RunningGuest,
  type Subject,
} from './subject.ts';

const PROGRAM = fileURLToPath(new URL('./nodevmm-process.js', import.meta.url));

/** What differs from the defaults, and how the row is shown. */
export interface Variant extends Pick<Subject, 'peer' | 'variant' | 'kernel' | 'lacking'> {
  readonly notify?: NonNullable<MachineOptions['notify']>;
  readonly engine?: NonNullable<DiskOptions['engine']>;
  readonly ring?: RingOptions;
  /** Its network interface. Default virtio, its queues served by a worker. */
  readonly nic?: Nic;
}

/** A request of the parent to the process. */
export interface ProcessRequest {
  readonly id: number;
  /** A command for the guest; absent: KVM's counters are requested. */
  readonly argv?: readonly string[];
}

/** A reply of the process; the first message, with id 0, reports that the guest's agent is up. */
export type ProcessReply =
  | { readonly id: number; readonly result: ExecResult }
  | { readonly id: number; readonly statistics: ReadonlyMap<string, number> }
  | { readonly id: number; readonly error: string };

/** The machine that a process runs. */
export function machineOptions(spec: GuestSpec, variant: Variant): MachineOptions {
  const { notify, engine, ring = {}, nic = 'virtio' } = variant;
  return {
    kernel: spec.kernel,
    initrd: spec.initrd,
    commandLine: [COMMAND_LINE, spec.append ?? ''].join(' ').trim(),
    memory: spec.memoryMiB * MiB,
    disks: (spec.disks ?? []).map(({ path, direct }) => ({
      path,
      direct,
      readOnly: true,
      ring,
      ...(engine === undefined ? {} : { engine }),
    })),
    nets: [
      ...(spec.tap === undefined ? [] : [netOptions(spec.tap, nic, ring)]),
      ...(spec.vhostUser === undefined ? [] : [{ vhostUser: { socket: spec.vhostUser }, ring }]),
    ],
    ...(notify === undefined ? {} : { notify }),
  };
}

function netOptions(tap: string, nic: Nic, ring: RingOptions): NetOptions {
  if (nic === 'e1000') return { tap, model: 'e1000' };
  return { tap, ring, ...(nic === 'vhost' ? { vhost: 'on' } : {}) };
}

/** nodevmm, with its defaults or a variant of them. */
export function nodevmm(name: string, variant: Variant): Subject {
  return { ...variant, name, reference: false, boot: (spec) => boot(spec, variant) };
}

async function boot(spec: GuestSpec, variant: Variant): Promise<RunningGuest> {
  const options = JSON.stringify(machineOptions(spec, variant));
  const child = new Child([process.execPath, PROGRAM, options], { ipc: true });
  try {
    const waiting = new Map<number, (reply: ProcessReply) => void>();
    const up = once(child.process, 'message');
    await child.during('the agent', up);
    child.process.on('message', (reply: ProcessReply) => {
      waiting.get(reply.id)?.(reply);
      waiting.delete(reply.id);
    });
    let last = 0;
    const ask = (request: Omit<ProcessRequest, 'id'>): Promise<ProcessReply> => {
      last += 1;
      const answered = new Promise<ProcessReply>((resolve) => waiting.set(last, resolve));
      child.process.send({ ...request, id: last });
      return answered;
    };
    const exec = async (argv: readonly string[]): Promise<ExecResult> => {
      const reply = await ask({ argv });
      if (!('result' in reply)) throw new Error('error' in reply ? reply.error : 'no result');
      const { stdout, stderr, exitCode } = reply.result;
      return { stdout: Buffer.from(stdout), stderr: Buffer.from(stderr), exitCode };
    };
    return {
      pid: child.process.pid ?? 0,
      exec: (argv, timeoutMs) =>
        child.during(argv[0] ?? '', exec(argv).catch(child.explain), timeoutMs),
      statistics: async () => {
        const reply = await child.during('its statistics', ask({}));
        return 'statistics' in reply ? reply.statistics : new Map();
      },
      [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
    };
  } catch (error) {
    await child[Symbol.asyncDispose]();
    throw error;
  }
}
