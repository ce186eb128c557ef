/** Whether this process may lock as much memory as passed devices need. */
import { readFileSync } from 'node:fs';
import { UsageError } from '../host/errors.ts';
import { lockedMemoryLimit } from '../host/file-system.ts';
import { MiB } from '../memory/ram-layout.ts';

const CAP_IPC_LOCK = 14n;

/** @throws UsageError when the kernel would refuse to pin so much */
export function checkLockedMemory(size: number): void {
  const limit = lockedMemoryLimit();
  if (limit >= size || hasCapability(CAP_IPC_LOCK)) return;
  throw new UsageError(
    'E_VFIO_MEMLOCK',
    `passed-through devices need ${size / MiB} MiB of guest RAM locked, but the limit is ${Math.floor(limit / MiB)} MiB`,
    'raise it with "ulimit -l", or memlock in /etc/security/limits.conf',
  );
}

function hasCapability(capability: bigint): boolean {
  const status = readFileSync('/proc/self/status', 'latin1');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> capability) & 1n) === 1n;
}
