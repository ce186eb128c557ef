/** A machine's I/O page tables: which of the kernel's two interfaces each passed function is opened by. */
import { accessSync, constants, existsSync } from 'node:fs';
import { CONTAINER, groupFile, VfioContainer } from './container.ts';
import type { DmaSpace } from './dma-space.ts';
import type { HostFunction } from './host-function.ts';
import { IOMMUFD, IommufdSpace } from './iommufd.ts';

/** Whether iommufd opens a function, and not a container. */
export type IommufdMode = 'on' | 'off' | 'auto';

/** Both kinds; each is open while a function uses it. */
export class DmaSpaces {
  readonly #container = new VfioContainer();
  readonly #iommufd = new IommufdSpace();

  /** The one that a function, bound to vfio-pci, is to be opened in. */
  choose(pciFunction: HostFunction, mode: IommufdMode): DmaSpace {
    const isWanted = mode === 'on' || (mode === 'auto' && isOnlyWay(pciFunction));
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
