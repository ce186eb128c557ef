/** Domains of a virtio-iommu: which mappings there are, and which endpoints see them (virtio 1.3 §5.13.6). */
import * as abi from '../../../abi/virtio-iommu.ts';
import { PAGE_SIZE } from '../../../memory/guest-memory.ts';
import { type IovaMapping, IovaTable, type MappingTarget } from '../../../memory/iova-table.ts';

/** The MSI doorbells of x86: writes there are interrupts, and are not translated. */
export const MSI_START = 0xfee0_0000;
export const MSI_END = 0xfeef_ffff;
/** The highest domain: more than endpoints need. */
export const DOMAIN_MAX = 0xffff;

/** The addresses of one endpoint, as `IovaSpace` implements them. */
export interface EndpointSpace extends MappingTarget {
  /** Takes away what is mapped in a range, in whole mappings. */
  unmap(address: number, length: number): void;
  bypass(): void;
  /**
   * Resolves when what serves the device follows the last change; never rejects. Undefined: that is so now.
   * Absent: it always is.
   */
  settled?(): Promise<unknown> | undefined;
}

/** Guest RAM, as far as mappings need it. */
export interface MappedRam {
  /** -1 unless all of a range is guest RAM. */
  offset(gpa: number, length: number): number;
}

/** A device that the IOMMU translates for. */
interface Endpoint {
  readonly id: number;
  readonly space: EndpointSpace;
  domain: Domain | undefined;
}

/** What a MAP request asks for, unchecked; addresses are inclusive. */
export interface MapRequest {
  readonly start: number;
  readonly end: number;
  readonly gpa: number;
  /** VIRTIO_IOMMU_MAP_F_ bits. */
  readonly flags: number;
}

interface Domain {
  readonly id: number;
  readonly bypass: boolean;
  readonly endpoints: Set<Endpoint>;
  /** One for each MAP request. */
  readonly mappings: IovaTable;
}

/** What a domain looks like from outside. */
export interface InspectedDomain {
  readonly id: number;
  readonly bypass: boolean;
  /** Endpoint IDs. */
  readonly endpoints: readonly number[];
  readonly mappings: readonly IovaMapping[];
}

/** What changed, for a trace. */
export interface DomainEvents {
  attached(endpoint: number, domain: number): void;
  detached(endpoint: number, domain: number): void;
  mapped(domain: number, mapping: IovaMapping): void;
  unmapped(domain: number, start: number, end: number, mappings: number): void;
}

/** Carries out the requests of a driver, which has checked nothing. */
export class IommuDomains {
  /** Absent: nobody listens. */
  events: DomainEvents | undefined;
  readonly #ram: MappedRam;
  readonly #size: number;
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #domains = new Map<number, Domain>();
  /** Mappings that all endpoints together may still get: each takes entries of the host's table of mappings. */
  #room: number;
  #bypass = true;

  /**
   * @param size bytes of addresses that each endpoint has
   * @param room the most mappings of all endpoints together
   */
  constructor(ram: MappedRam, size: number, room: number) {
    this.#ram = ram;
    this.#size = size;
    this.#room = room;
  }

  /** Adds a device, which is in bypass mode until it is attached, if that is the rule. */
  add(id: number, space: EndpointSpace): void {
    this.#endpoints.set(id, { id, space, domain: undefined });
    this.#release(space);
  }

  has(id: number): boolean {
    return this.#endpoints.has(id);
  }

  /** Whether an endpoint is attached to a domain. */
  isAttached(id: number): boolean {
    return this.#endpoints.get(id)?.domain !== undefined;
  }

  /** A domain's kind and mappings, by address; undefined when there is none. */
  find(
    id: number,
  ): { readonly bypass: boolean; readonly mappings: readonly IovaMapping[] } | undefined {
    const domain = this.#domains.get(id);
    return domain && { bypass: domain.bypass, mappings: domain.mappings.all };
  }

  /** Resolves when all who serve endpoints follow the last change; undefined: they do. */
  settled(): Promise<unknown> | undefined {
    let waiting: Promise<unknown>[] | undefined;
    for (const { space } of this.#endpoints.values()) {
      const settled = space.settled?.();
      if (settled === undefined) continue;
      waiting ??= [];
      waiting.push(settled);
    }
    return waiting && Promise.all(waiting);
  }

  /** The domains, for display. */
  list(): InspectedDomain[] {
    return [...this.#domains.values()].map(({ id, bypass, endpoints, mappings }) => ({
      id,
      bypass,
      endpoints: [...this.#endpoints].filter(([, one]) => endpoints.has(one)).map(([key]) => key),
      mappings: [...mappings.all],
    }));
  }

  /** Whether endpoints without a domain reach all guest RAM (§5.13.4, `bypass`). */
  set bypass(bypass: boolean) {
    if (this.#bypass === bypass) return;
    this.#bypass = bypass;
    for (const { space, domain } of this.#endpoints.values()) {
      if (domain === undefined) this.#release(space);
    }
  }

  get bypass(): boolean {
    return this.#bypass;
  }

  /** §5.13.5: after a reset no endpoint is attached. */
  reset(): void {
    for (const endpoint of this.#endpoints.values()) this.#detach(endpoint);
  }

  /** Forgets all endpoints. */
  clear(): void {
    this.reset();
    this.#endpoints.clear();
  }

  /** §5.13.6.3. @returns the status */
  attach(id: number, domainId: number, flags: number, reserved: number): number {
    if (reserved !== 0 || (flags & ~abi.VIRTIO_IOMMU_ATTACH_F_BYPASS) !== 0) {
      return abi.VIRTIO_IOMMU_S_INVAL;
    }
    const endpoint = this.#endpoints.get(id);
    if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
    if (domainId > DOMAIN_MAX) return abi.VIRTIO_IOMMU_S_RANGE;
    const bypass = (flags & abi.VIRTIO_IOMMU_ATTACH_F_BYPASS) !== 0;
    const known = this.#domains.get(domainId);
    if (known !== undefined && known.bypass !== bypass) return abi.VIRTIO_IOMMU_S_INVAL;
    if (endpoint.domain !== undefined && endpoint.domain === known) return abi.VIRTIO_IOMMU_S_OK;
    if ((known?.mappings.all.length ?? 0) > this.#room) return abi.VIRTIO_IOMMU_S_NOMEM;
    this.#detach(endpoint);
    const domain = known ?? {
      id: domainId,
      bypass,
      endpoints: new Set(),
      mappings: new IovaTable(),
    };
    if (bypass) endpoint.space.bypass();
    else endpoint.space.clear();
    for (const mapping of domain.mappings.all) {
      if (show(endpoint.space, mapping)) continue;
      this.#release(endpoint.space);
      return abi.VIRTIO_IOMMU_S_NOMEM;
    }
    this.#room -= domain.mappings.all.length;
    endpoint.domain = domain;
    domain.endpoints.add(endpoint);
    this.#domains.set(domainId, domain);
    this.events?.attached(id, domainId);
    return abi.VIRTIO_IOMMU_S_OK;
  }

  /** §5.13.6.4. @returns the status */
  detach(id: number, domainId: number): number {
    const endpoint = this.#endpoints.get(id);
    if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
    if (endpoint.domain === undefined || endpoint.domain.id !== domainId) {
      return abi.VIRTIO_IOMMU_S_INVAL;
    }
    this.#detach(endpoint);
    return abi.VIRTIO_IOMMU_S_OK;
  }

  /** §5.13.6.5. @returns the status */
  map(domainId: number, { start, end, gpa, flags }: MapRequest): number {
    const known = abi.VIRTIO_IOMMU_MAP_F_READ | abi.VIRTIO_IOMMU_MAP_F_WRITE;
    if ((flags & ~known) !== 0) return abi.VIRTIO_IOMMU_S_INVAL;
    if (!(start < end && end < this.#size)) return abi.VIRTIO_IOMMU_S_RANGE;
    const length = end + 1 - start;
    if (start % PAGE_SIZE !== 0 || length % PAGE_SIZE !== 0 || gpa % PAGE_SIZE !== 0) {
      return abi.VIRTIO_IOMMU_S_RANGE;
    }
    const domain = this.#domains.get(domainId);
    if (domain === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
    if (domain.bypass || (start <= MSI_END && end >= MSI_START)) return abi.VIRTIO_IOMMU_S_INVAL;
    if (domain.mappings.within(start, length).length > 0) return abi.VIRTIO_IOMMU_S_INVAL;
    // Only RAM: devices do not reach each other's registers.
    if (this.#ram.offset(gpa, length) < 0) return abi.VIRTIO_IOMMU_S_FAULT;
    if (domain.endpoints.size > this.#room) return abi.VIRTIO_IOMMU_S_NOMEM;
    // READ and WRITE are the same bits as those of an endpoint's pages.
    const mapping = { address: start, length, gpa, access: flags };
    for (const { space } of domain.endpoints) {
      if (show(space, mapping)) continue;
      for (const other of domain.endpoints) other.space.unmap(start, length);
      return abi.VIRTIO_IOMMU_S_NOMEM;
    }
    this.#room -= domain.endpoints.size;
    domain.mappings.add(mapping);
    this.events?.mapped(domainId, mapping);
    return abi.VIRTIO_IOMMU_S_OK;
  }

  /** §5.13.6.6: removes whole mappings, or none. @returns the status */
  unmap(domainId: number, start: number, end: number): number {
    const domain = this.#domains.get(domainId);
    if (domain === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
    if (domain.bypass) return abi.VIRTIO_IOMMU_S_INVAL;
    const { mappings, endpoints } = domain;
    const limit = Math.min(end + 1, this.#size);
    const found = mappings.within(start, limit - start);
    const [first] = found;
    const last = found.at(-1);
    if (first !== undefined && last !== undefined) {
      const { address } = first;
      const length = last.address + last.length - address;
      if (address < start || address + length > limit) return abi.VIRTIO_IOMMU_S_RANGE;
      // In one go, however many they are: each that follows the mappings has one change to make.
      mappings.remove(address, length);
      for (const { space } of endpoints) space.unmap(address, length);
    }
    this.#room += found.length * endpoints.size;
    this.events?.unmapped(domainId, start, end, found.length);
    return abi.VIRTIO_IOMMU_S_OK;
  }

  /** A domain without endpoints ceases to exist. */
  #detach(endpoint: Endpoint): void {
    const { domain } = endpoint;
    if (domain === undefined) return;
    endpoint.domain = undefined;
    domain.endpoints.delete(endpoint);
    if (domain.endpoints.size === 0) this.#domains.delete(domain.id);
    this.#room += domain.mappings.all.length;
    this.#release(endpoint.space);
    this.events?.detached(endpoint.id, domain.id);
  }

  #release(space: EndpointSpace): void {
    if (this.#bypass) space.bypass();
    else space.clear();
  }
}

function show(space: EndpointSpace, { address, length, gpa, access }: IovaMapping): boolean {
  return space.map(address, gpa, length, access);
}
