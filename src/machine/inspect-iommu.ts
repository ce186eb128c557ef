/** A snapshot of what the devices behind a machine's IOMMU reach of the guest's memory, for display. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type DeniedAccess,
  type GuestMemory,
} from '../memory/guest-memory.ts';
import type { IovaMapping } from '../memory/iova-table.ts';
import type { InspectedDomain } from '../virtio/device/iommu/domains.ts';

/** Parts of guest RAM in `InspectedEndpoint.reach`. */
const REACH_PARTS = 128;
/** Mappings of a domain that are listed. */
const LISTED_MAX = 256;

/** A mapping of a domain. Addresses are hexadecimal. */
export interface InspectedMapping {
  /** The first and the last address that a device uses. */
  readonly start: string;
  readonly end: string;
  /** Guest physical address of the first. */
  readonly gpa: string;
  readonly access: 'r' | 'w' | 'rw' | '-';
}

/** What one device reaches, as the guest has set it up (virtio 1.3 §5.13). */
export interface InspectedEndpoint {
  /** Its name, e.g. `net0`. */
  readonly device: string;
  /** Its endpoint ID: PCI bus, device, and function; from 0x10000 on for devices in memory. */
  readonly endpoint: number;
  /** Its domain; null while it is in none. */
  readonly domain: number | null;
  /** It uses guest physical addresses, and reaches all guest RAM. */
  readonly bypass: boolean;
  /** How many mappings there are in its domain, and bytes in them. */
  readonly mappings: number;
  readonly bytes: number;
  /** The first mappings, by address; at most 256. */
  readonly listed: readonly InspectedMapping[];
  /** What it may do with any page of each 128th of guest RAM, lowest first: 1 read, 2 write, 3 both, 0 nothing. */
  readonly reach: readonly number[];
  /** Accesses that were denied since power-on, and the last of them. */
  readonly faults: number;
  readonly lastFault?: InspectedFault;
}

/** An access that the IOMMU denied. */
export interface InspectedFault {
  /** Hexadecimal. */
  readonly address: string;
  readonly access: 'r' | 'w';
}

/** A machine's IOMMU. */
export interface InspectedIommu {
  /** Its name among the devices. */
  readonly device: string;
  readonly endpoints: readonly InspectedEndpoint[];
}

/** A device behind the IOMMU, and what it was denied. */
export interface EndpointRecord {
  readonly device: string;
  readonly id: number;
  readonly faults: number;
  readonly last: DeniedAccess | undefined;
}

/** @param bypass whether a device in no domain reaches all RAM */
export function inspectEndpoint(
  { device, id, faults, last }: EndpointRecord,
  domains: readonly InspectedDomain[],
  ram: GuestMemory,
  bypass: boolean,
): InspectedEndpoint {
  const domain = domains.find(({ endpoints }) => endpoints.includes(id));
  const all = domain?.bypass ?? bypass;
  const mappings = domain?.mappings ?? [];
  return {
    device,
    endpoint: id,
    domain: domain?.id ?? null,
    bypass: all,
    mappings: mappings.length,
    bytes: mappings.reduce((sum, one) => sum + one.length, 0),
    listed: mappings.slice(0, LISTED_MAX).map(listed),
    reach: all
      ? new Array<number>(REACH_PARTS).fill(ACCESS_READ | ACCESS_WRITE)
      : reachOf(mappings, ram),
    faults,
    ...(last === undefined ? {} : { lastFault: faultOf(last) }),
  };
}

const hex = (value: number): string => `0x${value.toString(16)}`;

function listed({ address, length, gpa, access }: IovaMapping): InspectedMapping {
  const read = (access & ACCESS_READ) !== 0 ? 'r' : '';
  const write = (access & ACCESS_WRITE) !== 0 ? 'w' : '';
  const text = `${read}${write}` as 'r' | 'w' | 'rw' | '';
  const end = address + length - 1;
  return { start: hex(address), end: hex(end), gpa: hex(gpa), access: text || '-' };
}

const faultOf = ({ address, write }: DeniedAccess): InspectedFault => ({
  address: hex(address),
  access: write ? 'w' : 'r',
});

function reachOf(mappings: readonly IovaMapping[], ram: GuestMemory): number[] {
  const parts = new Array<number>(REACH_PARTS).fill(0);
  const size = ram.size / REACH_PARTS;
  for (const { gpa, length, access } of mappings) {
    const offset = ram.offset(gpa, length);
    if (offset < 0) continue;
    const last = Math.min(REACH_PARTS - 1, Math.floor((offset + length - 1) / size));
    for (let part = Math.floor(offset / size); part <= last; part++) {
      parts[part] = (parts[part] ?? 0) | access;
    }
  }
  return parts;
}
