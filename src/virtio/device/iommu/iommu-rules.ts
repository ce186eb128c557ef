/** The rules of §5.13 for drivers, checked with `--check` before a request is carried out. */
import * as abi from '../../../abi/virtio-iommu.ts';
import { PAGE_SIZE } from '../../../memory/guest-memory.ts';
import type { RequestObserver } from '../../device.ts';
import { type IommuDomains, type MapRequest, MSI_END, MSI_START } from './domains.ts';

const MAP_FLAGS = abi.VIRTIO_IOMMU_MAP_F_READ | abi.VIRTIO_IOMMU_MAP_F_WRITE;
const hex = (value: number): string => `0x${value.toString(16)}`;

/** Reports requests that no driver may send, or should not. */
export class IommuRules {
  readonly #domains: IommuDomains;
  readonly #breach: NonNullable<RequestObserver['breach']>;

  constructor(domains: IommuDomains, breach: NonNullable<RequestObserver['breach']>) {
    this.#domains = domains;
    this.#breach = breach;
  }

  attach(endpoint: number, domain: number, flags: number, reserved: number): void {
    const note = `endpoint ${endpoint}, domain ${domain}, flags ${hex(flags)}, reserved ${hex(reserved)}`;
    if (reserved !== 0 || (flags & ~abi.VIRTIO_IOMMU_ATTACH_F_BYPASS) !== 0) {
      this.#report('iommu-attach-reserved', 'sets reserved bits of ATTACH', '§5.13.6.3.1', note);
    }
    const known = this.#domains.find(domain);
    if (known?.bypass === false && (flags & abi.VIRTIO_IOMMU_ATTACH_F_BYPASS) !== 0) {
      const text = 'attaches to a domain with the bypass flag, which it was made without';
      this.#report('iommu-attach-bypass', text, '§5.13.6.3.1', note);
    }
  }

  map(domain: number, { start, end, gpa, flags }: MapRequest): void {
    const note = `domain ${domain}, ${hex(start)} to ${hex(end)}, guest physical ${hex(gpa)}, flags ${hex(flags)}`;
    const report = (rule: string, text: string, clause = '§5.13.6.5.1'): void =>
      this.#report(rule, text, clause, note);
    if (end <= start)
      report('iommu-map-order', 'maps a range that ends where it starts, or before');
    if ((flags & ~MAP_FLAGS) !== 0) {
      report('iommu-map-flags', 'sets flags of MAP that are undefined or not negotiated');
    }
    if (this.#domains.find(domain)?.bypass === true) {
      report('iommu-map-bypass', 'maps in a bypass domain');
    }
    if (start <= MSI_END && end >= MSI_START) {
      report('iommu-map-reserved', 'maps reserved addresses', '§5.13.6.8.1.1');
    }
    if (start % PAGE_SIZE !== 0 || (end + 1) % PAGE_SIZE !== 0 || gpa % PAGE_SIZE !== 0) {
      report('iommu-map-granularity', 'maps less than whole pages', '§5.13.6.5.2');
    }
  }

  unmap(domain: number, start: number, end: number): void {
    const note = `domain ${domain}, ${hex(start)} to ${hex(end)}`;
    const known = this.#domains.find(domain);
    if (known?.bypass === true) {
      this.#report('iommu-unmap-bypass', 'unmaps in a bypass domain', '§5.13.6.6.1', note);
    }
    const split = known?.mappings.find(({ address, length }) => {
      const last = address + length - 1;
      return (address < start && start <= last) || (address <= end && end < last);
    });
    if (split === undefined) return;
    const { address, length } = split;
    const what = `; there is a mapping from ${hex(address)} to ${hex(address + length - 1)}`;
    this.#report('iommu-unmap-split', 'unmaps a part of a mapping', '§5.13.6.6.1', note + what);
  }

  /** @param room bytes for properties @param size what they should be */
  probe(room: number, size: number): void {
    if (room === size) return;
    const note = `${room} bytes instead of ${size}`;
    const text = 'has a buffer for properties that is not of probe_size bytes';
    this.#report('iommu-probe-size', text, '§5.13.6.7.1', note);
  }

  #report(rule: string, text: string, clause: string, note: string): void {
    this.#breach(rule, `${text} (virtio 1.3 ${clause})`, note);
  }
}
