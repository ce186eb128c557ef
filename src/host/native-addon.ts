/** Loads native/addon.cc: signal handlers that must never enter JavaScript, copies by the batch, unmapping at a thread's end. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { UsageError } from './errors.ts';

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

/** Where node-gyp puts the addon, seen from dist/src/host. */
const ADDON = fileURLToPath(new URL('../../../build/Release/nodevmm.node', import.meta.url));

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
        `cannot load the native addon: ${why}; build it with: node src/setup.mjs`,
        { cause: error },
      );
    }
  }
  return loaded;
}
