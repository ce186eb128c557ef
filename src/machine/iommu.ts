/** A machine's IOMMU, and the devices behind it. */
import type { ViotOptions, ViotPlace } from '../boot/viot.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import type { DeniedAccess, GuestMemory } from '../memory/guest-memory.ts';
import { IovaSpace, iovaSize } from '../memory/iova-space.ts';
import type { EndpointSpace } from '../virtio/device/iommu/domains.ts';
import { IommuDevice } from '../virtio/device/iommu/iommu.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { VfioMachineDevice } from './devices/vfio-device.ts';
import { VirtioMachineDevice } from './devices/virtio-device.ts';
import { type InspectedIommu, inspectEndpoint } from './inspect-iommu.ts';

/** PCI functions are their own endpoint IDs, which have 16 bits. */
const FIRST_MMIO_ENDPOINT = 0x1_0000;

type TranslatedDevice = VirtioMachineDevice | VfioMachineDevice;

/** Owns the addresses of each device behind it. */
export class MachineIommu extends Closeable {
  readonly #device: IommuDevice;
  readonly #own: VirtioMachineDevice;
  readonly #spaces = new Map<TranslatedDevice, EndpointSpace>();
  /** As of the last power-on. */
  readonly #ids = new Map<TranslatedDevice, number>();
  /** What was denied since the last power-on. */
  readonly #denied = new Map<TranslatedDevice, { count: number; last: DeniedAccess }>();
  readonly #ram: GuestMemory;
  readonly #owned = new CleanupStack();

  /**
   * Puts devices behind the machine's IOMMU.
   * @param log receives lines for the user
   * @returns undefined for a machine that has none
   * @throws UsageError when a device cannot be that must be; HostError when the host has no room
   */
  static of(
    devices: readonly MachineDevice[],
    ram: GuestMemory,
    log: (text: string) => void,
  ): MachineIommu | undefined {
    for (const own of devices) {
      if (!(own instanceof VirtioMachineDevice)) continue;
      const { device } = own;
      if (device instanceof IommuDevice) return new MachineIommu(own, device, devices, ram, log);
    }
    return undefined;
  }

  private constructor(
    own: VirtioMachineDevice,
    device: IommuDevice,
    devices: readonly MachineDevice[],
    ram: GuestMemory,
    log: (text: string) => void,
  ) {
    super();
    this.#own = own;
    this.#device = device;
    this.#ram = ram;
    device.setMemory(ram, iovaSize(ram));
    try {
      for (const one of devices) {
        if (one instanceof VfioMachineDevice && one.iommu) {
          this.#spaces.set(one, this.#owned.use(one.translate(ram)));
        } else if (one instanceof VirtioMachineDevice && one !== own && isBehind(one, log)) {
          this.#spaces.set(one, this.#translate(one, ram));
        }
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The IOMMU's own device. */
  get device(): MachineDevice {
    return this.#own;
  }

  /** What each device reaches now. */
  inspect(): InspectedIommu {
    const domains = this.#device.domains();
    const { bypass } = this.#device;
    const endpoints = [...this.#ids].map(([device, id]) => {
      const denied = this.#denied.get(device);
      const record = { device: device.name, id, faults: denied?.count ?? 0, last: denied?.last };
      return inspectEndpoint(record, domains, this.#ram, bypass);
    });
    return { device: this.#own.name, endpoints };
  }

  #translate(one: VirtioMachineDevice, ram: GuestMemory): IovaSpace {
    const space = this.#owned.use(new IovaSpace(ram));
    one.translate(space, (access) => {
      const id = this.#ids.get(one);
      const count = (this.#denied.get(one)?.count ?? 0) + 1;
      this.#denied.set(one, { count, last: access });
      if (id !== undefined) this.#device.denied(id, access);
    });
    return space;
  }

  /** The devices have their places on a new board. @returns what the guest's tables say */
  powerOn(): ViotOptions {
    this.#denied.clear();
    const endpoints = [...this.#spaces].map(([device, space], index) => {
      const place = placeOf(device);
      const id = place.kind === 'pci' ? place.bdf : FIRST_MMIO_ENDPOINT + index;
      this.#ids.set(device, id);
      return { id, place, space };
    });
    this.#device.powerOn(new Map(endpoints.map(({ id, space }) => [id, space])));
    return {
      iommu: placeOf(this.#own),
      endpoints: endpoints.map(({ id, place }) => ({ id, place })),
    };
  }

  /** Every device behind it must have ended. */
  close(): void {
    this.#owned.dispose();
  }
}

/** @throws UsageError when it must be and cannot */
function isBehind(device: VirtioMachineDevice, log: (text: string) => void): boolean {
  const { name, iommu } = device;
  if (iommu === 'off') return false;
  const reason = iommu === 'auto' ? device.device.iommuOnRequest : undefined;
  const problem = reason ?? device.device.iommuProblem?.();
  if (problem === undefined) return true;
  if (iommu === 'on') {
    throw new UsageError(
      'E_IOMMU',
      `${name} cannot be behind the IOMMU: ${problem}`,
      'set iommu=off for it',
    );
  }
  log(`${name} is not behind the IOMMU: ${problem}`);
  return false;
}

function placeOf({ name, planned }: TranslatedDevice): ViotPlace {
  if (planned === undefined) throw new InternalError(`${name} has no plan`);
  return planned.model === 'virtio-mmio'
    ? { kind: 'mmio', address: planned.plan.address }
    : { kind: 'pci', bdf: planned.plan.slot << 3 };
}
