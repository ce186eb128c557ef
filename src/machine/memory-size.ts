/** How much RAM a machine's guest has, and how much it is to have. */
import { UsageError } from '../host/errors.ts';
import { BLOCK_SIZE } from '../memory/plugged-blocks.ts';
import { MiB } from '../memory/ram-layout.ts';
import { vfioType } from '../vfio/vfio-type.ts';
import { type MemDevice, type MemoryDeviceOptions, memType } from '../virtio/device/mem/mem.ts';
import { pmemType } from '../virtio/device/pmem/pmem.ts';
import type { ResolvedDevice, ResolvedOptions } from './resolve-options.ts';

/** The guest's RAM in bytes; the balloon's part included. */
export interface MemoryState {
  /** What the guest is asked to have. */
  readonly target: number;
  /** What it has. */
  readonly current: number;
  /** What it can have. */
  readonly max: number;
}

type Sized = Pick<ResolvedOptions, 'memory' | 'devices'>;

/** Bytes by which the RAM of a machine can grow. */
export function growthOf({ memory, devices }: Sized): number {
  const device = devices.find(({ type }) => type === memType);
  return device === undefined ? 0 : (device.options as MemoryDeviceOptions).max - memory;
}

/** @param device undefined: the machine has none */
export function memoryState(machine: Sized, device: MemDevice | undefined): MemoryState {
  const { memory } = machine;
  return {
    target: memory + (device?.requested ?? 0) * BLOCK_SIZE,
    current: memory + (device?.plugged ?? 0) * BLOCK_SIZE,
    max: memory + growthOf(machine),
  };
}

/** @throws UsageError when the guest cannot have that much */
export function requestMemory(machine: Sized, device: MemDevice | undefined, bytes: number): void {
  const { memory } = machine;
  if (device === undefined) {
    throw new UsageError(
      'E_MEMORY',
      'the RAM of this machine cannot change',
      'create it with memoryDevice (--memory-device)',
    );
  }
  const blocks = (bytes - memory) / BLOCK_SIZE;
  const max = memory + growthOf(machine);
  if (!Number.isInteger(blocks) || blocks < 0 || bytes > max) {
    throw new UsageError(
      'E_MEMORY',
      `the guest cannot have ${bytes} bytes of RAM`,
      `take ${memory / MiB} MiB and whole ${BLOCK_SIZE / MiB} MiB more, up to ${max / MiB} MiB`,
    );
  }
  device.requested = blocks;
}

/** @throws UsageError when the machine cannot have its memory device */
export function checkGrowth(memory: number, devices: readonly ResolvedDevice[]): void {
  const growing = devices.find(({ type }) => type === memType);
  if (growing === undefined) return;
  const { max } = growing.options as MemoryDeviceOptions;
  const more = max - memory;
  if (more <= 0 || more % BLOCK_SIZE !== 0) {
    throw new UsageError(
      'E_MEMORY',
      `memory cannot grow from ${memory / MiB} to ${max / MiB} MiB`,
      `memoryDevice.max is memory and whole ${BLOCK_SIZE / MiB} MiB more`,
    );
  }
}

/**
 * What guest RAM does not have, and others that reach it do not know of.
 * @throws UsageError when the machine has both
 */
export function checkOthers(hugePages: boolean, devices: readonly ResolvedDevice[]): void {
  const special = devices.find(({ type }) => type === memType || type === pmemType);
  if (special === undefined) return;
  const other = devices.find(
    ({ type, backend, options }) =>
      type.name === vfioType.name || backend.ram?.(options) !== undefined,
  );
  const what = hugePages && special.type === memType ? 'huge pages' : other?.context.name;
  if (what === undefined) return;
  throw new UsageError(
    special.type === memType ? 'E_MEMORY' : 'E_PMEM',
    `${special.context.name} and ${what} cannot be combined: only this process and its kernel know what of its memory there is`,
    'leave out one of them',
  );
}
