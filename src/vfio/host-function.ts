/** A PCI function of the host, as sysfs shows it: its driver, its IOMMU group, and who else is in that. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import { linkName, namesIn } from '../host/sysfs.ts';

/** The driver that hands a function to processes. */
export const VFIO_DRIVER = 'vfio-pci';
/** Drivers that leave a function alone, or only forward what passes through it. */
const HARMLESS = new Set([VFIO_DRIVER, 'pci-stub', 'pcieport']);
/** Base class of bridges (PCI 3.0 appendix D). */
const BRIDGE = 0x06;

const ADDRESS = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/i;

/** A function's full address in sysfs; undefined for a text that is none. `01:00.0` is in domain 0. */
export function functionAddress(text: string): string | undefined {
  const found = ADDRESS.exec(text);
  return found === null ? undefined : `${found[1] ?? '0000'}:${found[2]}`.toLowerCase();
}

/** Another function of a group that a driver of the host uses. */
export interface Neighbor {
  readonly address: string;
  readonly driver: string;
}

/** One function. */
export class HostFunction {
  readonly address: string;
  /** Its folder in sysfs. */
  readonly path: string;
  /** The folder of all PCI drivers. */
  readonly drivers: string;
  readonly #bus: string;

  /**
   * @param address as `functionAddress` returns it
   * @param sysfs tests have a tree of their own
   * @throws UsageError when this host has no such function
   */
  constructor(address: string, sysfs = '/sys') {
    this.address = address;
    this.#bus = join(sysfs, 'bus/pci');
    this.drivers = join(this.#bus, 'drivers');
    this.path = join(this.#bus, 'devices', address);
    if (existsSync(this.path)) return;
    throw new UsageError(
      'E_VFIO_DEVICE',
      `this host has no PCI function ${address}`,
      'see "lspci -D"',
    );
  }

  /** The number of its IOMMU group. @throws UsageError when it has none */
  get group(): number {
    const group = linkName(join(this.path, 'iommu_group'));
    if (group !== undefined) return Number(group);
    throw new UsageError(
      'E_VFIO_IOMMU',
      `${this.address} is behind no IOMMU`,
      "enable VT-d or AMD-Vi in the firmware, and add intel_iommu=on to the kernel's command line on Intel",
    );
  }

  /** The driver that it is bound to, if any. */
  get driver(): string | undefined {
    return linkName(join(this.path, 'driver'));
  }

  /** Its own file, once it is bound to vfio-pci; undefined on a kernel that has only those of groups. */
  get deviceFile(): string | undefined {
    const folder = join(this.path, 'vfio-dev');
    // Without CONFIG_VFIO_DEVICE_CDEV it has a name there, and no number of a file.
    const name = namesIn(folder).find((found) => existsSync(join(folder, found, 'dev')));
    return name === undefined ? undefined : `/dev/vfio/devices/${name}`;
  }

  /** Whether the host's kernel has the driver vfio-pci. */
  get hasVfioDriver(): boolean {
    return existsSync(join(this.drivers, VFIO_DRIVER));
  }

  /** What of its group the host uses, so that the IOMMU cannot keep it apart. */
  neighbors(): Neighbor[] {
    const others = readdirSync(join(this.path, 'iommu_group/devices')).filter(
      (address) => address !== this.address,
    );
    return others.flatMap((address) => {
      const path = join(this.path, 'iommu_group/devices', address);
      const driver = linkName(join(path, 'driver'));
      if (driver === undefined || HARMLESS.has(driver) || isBridge(path)) return [];
      return { address, driver };
    });
  }

  /** @throws UsageError when it has no group, or naming those of it that the host uses */
  checkGroup(): void {
    const { group } = this;
    const neighbors = this.neighbors();
    if (neighbors.length === 0) return;
    const names = neighbors.map(({ address, driver }) => `${address} (${driver})`).join(', ');
    throw new UsageError(
      'E_VFIO_GROUP',
      `IOMMU group ${group} of ${this.address} is also that of ${names}, which the host uses`,
      `bind them to ${VFIO_DRIVER} as well, or unbind them`,
    );
  }
}

/** Whether a function, at its full address, is bound to vfio-pci. */
export function isBound(address: string, sysfs = '/sys'): boolean {
  return linkName(join(sysfs, 'bus/pci/devices', address, 'driver')) === VFIO_DRIVER;
}

function isBridge(path: string): boolean {
  try {
    return Number(readFileSync(join(path, 'class'), 'latin1')) >> 16 === BRIDGE;
  } catch {
    return false;
  }
}

/** IOMMU groups of this host, and functions that are bound to vfio-pci. */
export function countVfio(sysfs = '/sys'): { readonly groups: number; readonly bound: number } {
  const bound = namesIn(join(sysfs, 'bus/pci/drivers', VFIO_DRIVER)).filter(functionAddress);
  return { groups: namesIn(join(sysfs, 'kernel/iommu_groups')).length, bound: bound.length };
}
