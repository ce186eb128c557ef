/** A machine's IOMMU, and the devices behind it. */
import type { ViotOptions, ViotPlace } from '../boot/viot.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { InternalError } from '../host/errors.ts';
import type { DeniedAccess, GuestMemory } from '../memory/guest-memory.ts';
import { IovaSpace, iovaSize } from '../memory/iova-space.ts';
import { IommuDevice } from '../virtio/device/iommu/iommu.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { VirtioMachineDevice } from './devices/virtio-device.ts';
import { type InspectedIommu, inspectEndpoint } from './inspect-iommu.ts';

/** PCI functions are their own endpoint IDs, which have 16 bits. */
const FIRST_MMIO_ENDPOINT = 0x1_0000;

/** Owns the addresses of each device behind it. */
export class MachineIommu extends Closeable {
  readonly #device: IommuDevice;
  readonly #own: VirtioMachineDevice;
  readonly #spaces = new Map<VirtioMachineDevice, IovaSpace>();
  /** As of the last power-on. */
  readonly #ids = new Map<VirtioMachineDevice, number>();
  /** What was denied since the last power-on. */
  readonly #denied = new Map<VirtioMachineDevice, { count: number; last: DeniedAccess }>();
  readonly #ram: GuestMemory;
  readonly #owned = new CleanupStack();

  /**
   * Puts the virtio devices that this process serves behind the machine's IOMMU.
   * @returns undefined for a machine that has none
   * @throws HostError when the host has no room
   */
  static of(devices: readonly MachineDevice[], ram: GuestMemory): MachineIommu | undefined {
    for (const own of devices) {
      if (!(own instanceof VirtioMachineDevice)) continue;
      const { device } = own;
      if (device instanceof IommuDevice) return new MachineIommu(own, device, devices, ram);
    }
    return undefined;
  }

  private constructor(
    own: VirtioMachineDevice,
    device: IommuDevice,
    devices: readonly MachineDevice[],
    ram: GuestMemory,
  ) {
    super();
    this.#own = own;
    this.#device = device;
    this.#ram = ram;
    device.setMemory(ram, iovaSize(ram));
    try {
      for (const one of devices) {
        if (!(one instanceof VirtioMachineDevice) || one === own || !one.isTranslatable) continue;
        const space = this.#owned.use(new IovaSpace(ram));
        this.#spaces.set(one, space);
        one.translate(space.memory, (access) => {
          const id = this.#ids.get(one);
          const count = (this.#denied.get(one)?.count ?? 0) + 1;
          this.#denied.set(one, { count, last: access });
          if (id !== undefined) device.denied(id, access);
        });
      }
    } catch (error) {
      this.close();
      throw error;
    }
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

function placeOf({ name, planned }: VirtioMachineDevice): ViotPlace {
  if (planned === undefined) throw new InternalError(`${name} has no plan`);
  return planned.model === 'virtio-pci'
    ? { kind: 'pci', bdf: planned.plan.slot << 3 }
    : { kind: 'mmio', address: planned.plan.address };
}
