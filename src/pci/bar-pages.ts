/** Pages of a host's device in a guest's BARs: KVM memory slots that follow the BARs, so that no access is an exit. */
import { setMemorySlot } from '../kvm/vm-ioctl.ts';
import type { SharedState } from '../state/shared-state.ts';

/** Pages, and their place in a BAR. */
export interface PageArea {
  readonly offset: number;
  readonly size: number;
  /** Host virtual address. */
  readonly address: number;
}

/** All that a function has of them, as each thread sees it. */
export class BarPages {
  readonly #vmFd: number;
  readonly #first: number;
  /** 1 for each memory slot that exists. */
  readonly #slots: Uint8Array;

  /** @param first of as many memory slots as there are areas */
  constructor(state: SharedState, vmFd: number, first: number, areas: number) {
    this.#vmFd = vmFd;
    this.#first = first;
    this.#slots = state.bytes(Math.max(1, areas));
  }

  /** The memory slot of an area; undefined while accesses to it are exits. */
  slotOf(index: number): number | undefined {
    return this.#slots[index] === 1 ? this.#first + index : undefined;
  }

  /** Where RAM or another BAR is already, KVM refuses: then each access is an exit. @param bar its address; negative: nowhere */
  move(index: number, area: PageArea, bar: number): void {
    const slot = this.#first + index;
    if (this.#slots[index] === 1) setMemorySlot(this.#vmFd, slot, 0, 0, 0);
    this.#slots[index] = 0;
    if (bar < 0) return;
    const made = setMemorySlot(this.#vmFd, slot, bar + area.offset, area.size, area.address);
    if (made === 0) this.#slots[index] = 1;
  }
}
