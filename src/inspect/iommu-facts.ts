/** What page and terminal show of what devices behind the IOMMU reach. */

import type { InspectedEndpoint } from '../machine/inspect-iommu.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../memory/guest-memory.ts';
import { sizeText } from './function-facts.ts';

/** What a device may do with a part of guest RAM, by the bits of its access. */
export const REACH = ['none', 'read', 'write', 'both'] as const;
export type Reach = (typeof REACH)[number];

/** `domain 3`, `bypass`. */
export function domainText({ domain, bypass }: InspectedEndpoint): string {
  const where = domain === null ? 'no domain' : `domain ${domain}`;
  return bypass ? `${where}, bypass` : where;
}

/** `12 mappings, 48 KiB`. */
export function mappingsText({ bypass, mappings, bytes }: InspectedEndpoint): string {
  if (bypass) return 'all guest RAM';
  if (mappings === 0) return 'nothing';
  return `${mappings} mapping${mappings === 1 ? '' : 's'}, ${sizeText(bytes)}`;
}

/** `2 faults, the last at 0x1000 (w)`; empty without one. */
export function faultsText({ faults, lastFault }: InspectedEndpoint): string {
  if (lastFault === undefined) return '';
  const { address, access } = lastFault;
  return `${faults} fault${faults === 1 ? '' : 's'}, the last at ${address} (${access})`;
}

/** What a device may do with guest RAM, in so many equal parts or fewer, lowest first. */
export function reachIn({ reach }: InspectedEndpoint, parts: number): Reach[] {
  const count = Math.max(1, Math.min(parts, reach.length));
  return Array.from({ length: count }, (_, i) => {
    const from = Math.floor((i * reach.length) / count);
    const to = Math.floor(((i + 1) * reach.length) / count);
    const bits = reach.slice(from, to).reduce((all, one) => all | one, 0);
    return REACH[bits & (ACCESS_READ | ACCESS_WRITE)] ?? 'none';
  });
}
