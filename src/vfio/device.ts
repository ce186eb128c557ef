/** A function of the host that is passed to a guest, from the machine's creation to its end. */
import { Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import type { IommuMode } from '../virtio/device-type.ts';
import { VfioBinding } from './binding.ts';
import type { IommufdMode } from './dma-spaces.ts';
import { functionAddress, HostFunction } from './host-function.ts';

/** A PCI function of the host for the guest (docs/vfio.md). */
export interface VfioOptions {
  /** Its address, as `lspci -D` prints it: `0000:01:00.0`. */
  readonly address: string;
  /**
   * Bind it to vfio-pci when another driver has it, and back at the end. Default false: it must be bound to
   * vfio-pci already.
   */
  readonly bind?: boolean;
  /**
   * Open it by iommufd and its own file, and not by its IOMMU group and a container. Default `'auto'`: where
   * files of groups are missing, or must not be opened.
   */
  readonly iommufd?: IommufdMode;
  /** Whether it is behind the machine's own IOMMU (docs/iommu.md). Default `auto`: if the machine has one. */
  readonly iommu?: IommuMode;
}

/** Owns its binding to vfio-pci. */
export class VfioDevice extends Closeable {
  /** For messages: `vfio0`. */
  readonly name: string;
  readonly pciFunction: HostFunction;
  readonly iommufd: IommufdMode;
  readonly #binding: VfioBinding;

  /** @throws UsageError when this host has no such function, or it cannot be passed on */
  constructor(name: string, options: VfioOptions, sysfs?: string) {
    super();
    const { address, bind = false, iommufd = 'auto' } = options;
    this.name = name;
    this.iommufd = iommufd;
    const full = functionAddress(address);
    if (full === undefined) {
      throw new UsageError('E_VFIO_DEVICE', `${JSON.stringify(address)} is no PCI address`);
    }
    this.pciFunction = new HostFunction(full, sysfs);
    this.pciFunction.checkGroup();
    this.#binding = new VfioBinding(this.pciFunction, bind);
  }

  /** Nothing may have it open. Its driver has it back after it. */
  close(): void {
    this.#binding.close();
  }
}
