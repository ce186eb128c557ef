/** Huge pages that the host's administrator reserved. */
import { readFileSync } from 'node:fs';

/** Bytes of those that nothing uses or has been promised. */
export function freeHugePages(info = readFileSync('/proc/meminfo', 'latin1')): number {
  const number = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const free = number('HugePages_Free') - number('HugePages_Rsvd');
  return Math.max(0, free) * number('Hugepagesize') * 1024;
}
