/** A machine's I/O page tables: which of the kernel's two interfaces each passed function is opened by. */
import { accessSync, constants, existsSync } from 'node:fs';
import { UsageError } from '../host/errors.ts';
import { CONTAINER, groupFile, VfioContainer } from './container.ts';
import type { DmaSpace } from './dma-space.ts';
import type { HostFunction } from './host-function.ts';
import { IOMMUFD, IommufdSpace } from './iommufd.ts';

/** Whether iommufd opens a function, and not a container. */
export type IommufdMode = 'on' | 'off' | 'auto';

/** Of both kinds; each is open while a function uses it. */
export class DmaSpaces {
  readonly #container = new VfioContainer();
  readonly #iommufd = new IommufdSpace();
  /** Whether functions of a group are behind the machine's IOMMU. */
  readonly #groups = new Map<number, boolean>();

  /**
   * The one that a function, bound to vfio-pci, is to be opened in.
   * @param behind it is behind the machine's IOMMU, and has one of its own
   * @throws UsageError when another function of its group must have the same, and does not
   */
  choose(pciFunction: HostFunction, mode: IommufdMode, behind = false): DmaSpace {
    const { address, group } = pciFunction;
    const before = this.#groups.get(group);
    if (before === true || (before === false && behind)) {
      throw new UsageError(
        'E_IOMMU',
        `${address} shares IOMMU group ${group} of the host with another passed function, and so its addresses`,
        'set iommu=off for both, or pass only one',
      );
    }
    this.#groups.set(group, behind);
    const isWanted = mode === 'on' || (mode === 'auto' && isOnlyWay(pciFunction));
    if (behind) return isWanted ? new IommufdSpace() : new VfioContainer();
    return isWanted ? this.#iommufd : this.#container;
  }
}

/** Whether it has a file of its own, and its group none to be used. */
function isOnlyWay(pciFunction: HostFunction): boolean {
  if (pciFunction.deviceFile === undefined || !existsSync(IOMMUFD)) return false;
  return !isUsable(CONTAINER) || !isUsable(groupFile(pciFunction.group));
}

function isUsable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
