/**
 * native/addon.cc: signal handlers that must never enter JavaScript, copies in batches, unmapping at
 * the end of a thread.
 */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Closeable } from './cleanup-stack.ts';
import { UsageError } from './errors.ts';
import { NativeMemory } from './native-memory.ts';
import { packageFolder } from './package-folder.ts';
import * as sys from './syscall.ts';

/** The addon's functions. Each returns a number, or a negative errno. */
export interface NativeAddon {
  /** Gives the kick signal a handler that does nothing, for the whole process. Returns its number. */
  installKick(): number;
  /** Survive SIGBUS in a mapping: address, bytes and page size. Returns a slot. */
  guard(address: number, size: number, pageSize: number): number;
  /** Ends a guard. Returns 0. */
  unguard(slot: number): number;
  /** Pages of a guarded mapping that were replaced by zeroes so far. */
  guardFaults(slot: number): number;
  /**
   * Copies pieces of memory, in order: the address of `count` times target, source and bytes, as
   * doubles. Nothing is checked. Returns 0.
   */
  copy(list: number, count: number): number;
  /** Unmaps a range of memory when the calling thread's environment is torn down. Returns 0. */
  unmapAtExit(address: number, size: number): number;
}

/** Where node-gyp puts the addon, and the package has it. */
const ADDON = join(packageFolder, 'build/Release/nodevmm.node');

let loaded: NativeAddon | undefined;

/** The addon, loaded at the first call. @throws UsageError when it has not been built */
export function nativeAddon(): NativeAddon {
  if (loaded === undefined) {
    try {
      loaded = createRequire(import.meta.url)(ADDON) as NativeAddon;
    } catch (error) {
      const why = error instanceof Error ? error.message.split('\n')[0] : String(error);
      throw new UsageError(
        'E_ADDON',
        `cannot load the native addon: ${why}`,
        `reinstall nodevmm, or build it with: ${buildCommand()}`,
        { cause: error },
      );
    }
  }
  return loaded;
}

function buildCommand(): string {
  if (existsSync(join(packageFolder, 'src/setup.mjs'))) return 'npm run build';
  return `npx node-gyp configure build --directory '${packageFolder}'`;
}

const PAGE_SIZE = 4096;

/**
 * Guards a mapping of a file that a peer may truncate: a page that is gone is replaced by zeroes for
 * good, and counted, instead of ending the process by SIGBUS. That holds for loads and stores of this
 * process; system calls on such memory fail with EFAULT, and so does KVM_RUN.
 *
 * Close it before the munmap.
 */
export class FaultGuard extends Closeable {
  #slot: number;

  /**
   * @param address host virtual address of the mapping
   * @param size bytes
   * @param pageSize of the mapping, for huge pages
   * @throws HostError when 64 mappings are guarded already
   */
  constructor(address: number, size: number, pageSize: number = PAGE_SIZE) {
    super();
    this.#slot = sys.check(
      nativeAddon().guard(address, size, pageSize),
      'guarding',
      `a mapping of ${size} bytes`,
    );
  }

  /** Pages replaced so far: above 0 the peer has broken its promise. */
  get faults(): number {
    return this.#slot < 0 ? 0 : nativeAddon().guardFaults(this.#slot);
  }

  close(): void {
    if (this.#slot < 0) return;
    nativeAddon().unguard(this.#slot);
    this.#slot = -1;
  }
}

/** Numbers of a copy, and which is which: addresses of target and source, and bytes. */
export const COPY = 3;
export const COPY_TARGET = 0;
export const COPY_SOURCE = 1;
export const COPY_BYTES = 2;

/**
 * A list of copies between pieces of memory, done by one call: calling into V8 for each costs as
 * much as copying a packet does.
 *
 * HOT, measured by bench/groups/vhost-user.ts.
 */
export class CopyList {
  /**
   * `COPY` numbers for each, which the caller has checked. Written in place, since a call with
   * numbers beyond small integers allocates them.
   */
  readonly numbers: Float64Array;
  readonly #native: NativeMemory;
  readonly #copy = nativeAddon().copy;

  /** @param capacity copies that it has room for */
  constructor(capacity: number) {
    this.#native = new NativeMemory(capacity * COPY * Float64Array.BYTES_PER_ELEMENT);
    this.numbers = new Float64Array(this.#native.bytes.buffer);
  }

  /** Does the first `count` copies, in order. Target and source of one may overlap. */
  run(count: number): void {
    if (count > 0) this.#copy(this.#native.address, Math.min(count, this.numbers.length / COPY));
  }
}
