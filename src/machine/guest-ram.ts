/** What guest RAM is made of, which depends on who else reaches it. */
import { UsageError } from '../host/errors.ts';
import { lockedMemoryLimit } from '../host/file-system.ts';
import { freeHugePages } from '../memory/huge-pages.ts';
import type { RamBacking } from '../memory/ram.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { ResolvedOptions } from './resolve-options.ts';

/** In bytes. */
export interface HostLimits {
  readonly freeHugePages: number;
  readonly lockedMemory: number;
}

/**
 * Only memory with a file can be shared with other processes; the rest is faster (docs/datapaths.md). Hardware behind
 * vhost-vdpa takes RAM in a limited number of contiguous pieces: huge pages where there are enough, else
 * memory that the kernel gives in huge pages on its own.
 * @throws UsageError when the hardware needs more of it locked than is allowed
 */
export function chooseRam(
  { hugePages, memory, devices }: Pick<ResolvedOptions, 'hugePages' | 'memory' | 'devices'>,
  limits: () => HostLimits = hostLimits,
): RamBacking {
  const uses = devices.map(({ backend, options }) => backend.ram?.(options));
  const locking = devices[uses.indexOf('locked')];
  if (locking !== undefined) {
    const { freeHugePages: free, lockedMemory } = limits();
    // vhost-vdpa does not ask for CAP_IPC_LOCK.
    if (lockedMemory < memory) {
      throw new UsageError(
        'E_VDPA',
        `${locking.context.name} needs all ${memory / MiB} MiB of guest RAM locked, but the limit is ${Math.floor(lockedMemory / MiB)} MiB`,
        'raise it with "ulimit -l", or memlock in /etc/security/limits.conf',
      );
    }
    if (free >= memory && !uses.includes('paged')) return 'hugetlb';
  }
  if (hugePages) return 'hugetlb';
  return uses.includes('shared') || uses.includes('paged') ? 'memfd' : 'anonymous';
}

function hostLimits(): HostLimits {
  return { freeHugePages: freeHugePages(), lockedMemory: lockedMemoryLimit() };
}
