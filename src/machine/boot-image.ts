/** What a machine boots: the files that its options name, or a guest image. */
import { isLinux } from '../boot/kernel-image.ts';
import { buildGuest } from '../guest/guests.ts';
import type { Progress } from '../guest/kernel.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import { knownKvm } from '../kvm/probe.ts';
import { given } from '../options/option-schema.ts';
import type { BootOptions } from './resolve-options.ts';

/** Files that are booted. */
export interface BootFiles {
  readonly kernel: string;
  readonly initrd?: string;
}

/**
 * Checks that this host's KVM can run what is booted. One that interprets guest code gets far enough into
 * Linux to hang, but runs kernels of a few instructions.
 * @throws UsageError E_KVM
 */
export function checkKvm({ kernel }: BootOptions): void {
  const { usable, detail, remedy } = knownKvm();
  if (usable || (kernel !== undefined && !isLinux(kernel))) return;
  throw new UsageError('E_KVM', `this host's KVM cannot run Linux: ${detail}`, remedy);
}

/**
 * The kernel and initial RAM disk to boot; a guest image is built, or found in the cache.
 * @throws UsageError when an ingredient is missing
 */
export async function bootFiles(
  { kernel, initrd, guest, guestKernel: series }: Omit<BootFiles, 'kernel'> & BootOptions,
  onProgress: Progress = () => {},
): Promise<BootFiles> {
  if (kernel !== undefined) return given<BootFiles>({ kernel, initrd });
  if (guest === undefined) throw new InternalError('a machine has neither a kernel nor a guest');
  const image = await buildGuest(guest, given({ kernel: series, onProgress }));
  return { kernel: image.kernel, initrd: initrd ?? image.initrd };
}
