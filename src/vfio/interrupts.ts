/**
 * Which of its interrupts a device raises: INTx, MSI or MSI-X, as its guest has it. VFIO signals eventfds,
 * and KVM interrupts the guest for them (irqfd), without this process.
 */
import * as abi from '../abi/vfio.ts';
import { drainEventfd } from '../host/fd.ts';
import * as vm from '../kvm/vm-ioctl.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { InspectedInterrupts } from './inspected-function.ts';
import type { VfioFile } from './vfio-file.ts';

/** The interrupt pin's two ends. */
export interface PinEventfds {
  /** Signaled by VFIO, which masks the pin at the same time. */
  readonly trigger: number;
  /** Signaled by KVM when the guest has ended the interrupt, so that VFIO unmasks the pin. */
  readonly resample: number;
}

export interface InterruptPlan {
  readonly vmFd: number;
  /** The pin's GSI in the guest. */
  readonly gsi: number;
  /** Absent: the device has no pin. */
  readonly pin?: PinEventfds;
  /** Of the message-signaled interrupts. */
  readonly eventfds: readonly number[];
}

/** What switches the device's interrupts. */
export type InterruptFile = Pick<VfioFile, 'setEventfds' | 'disableInterrupts'>;

/** What the guest has enabled. */
export interface WantedInterrupts {
  readonly msi: number;
  readonly msix: number;
}

const NONE = -1;
/** Words: the index that is on, plus 1, and how many vectors. */
const INDEX = 0;
const COUNT = 1;
const WORDS = 2;
const ALL_INDEXES: readonly number[] = [
  abi.VFIO_PCI_INTX_IRQ_INDEX,
  abi.VFIO_PCI_MSI_IRQ_INDEX,
  abi.VFIO_PCI_MSIX_IRQ_INDEX,
];

/** All methods run with the register lock held, in any thread. */
export class VfioInterrupts {
  readonly #file: InterruptFile;
  readonly #plan: InterruptPlan;
  readonly #words: Int32Array;
  /** 1 for each MSI-X vector that the driver has unmasked since it enabled MSI-X. */
  readonly #used: Uint8Array;
  readonly #failed: (result: number) => void;

  /** @param failed called when the host does not give an interrupt */
  constructor(
    state: SharedState,
    file: InterruptFile,
    plan: InterruptPlan,
    failed: (result: number) => void,
  ) {
    this.#file = file;
    this.#plan = plan;
    this.#failed = failed;
    this.#words = state.words(WORDS);
    this.#used = state.bytes(Math.max(1, plan.eventfds.length));
  }

  /** Power-on state: INTx, if the device has a pin. */
  reset(): void {
    this.#words.fill(0);
    this.#used.fill(0);
    // A power-on that failed half-way may have left any of them on.
    for (const index of ALL_INDEXES) this.#file.disableInterrupts(index);
    this.update({ msi: 0, msix: 0 });
  }

  /** The guest may have enabled others. */
  update({ msi, msix }: WantedInterrupts): void {
    if (msix > 0) this.#select(abi.VFIO_PCI_MSIX_IRQ_INDEX, msix);
    else if (msi > 0) this.#select(abi.VFIO_PCI_MSI_IRQ_INDEX, msi);
    else if (this.#plan.pin !== undefined) this.#select(abi.VFIO_PCI_INTX_IRQ_INDEX, 1);
    else this.#select(NONE, 0);
  }

  /** All of them off. */
  stop(): void {
    this.#select(NONE, 0);
  }

  /**
   * The driver unmasked an MSI-X vector. The host gets by with those that are used: it may have few.
   */
  useVector(vector: number): void {
    if (this.#used[vector] === 1) return;
    this.#used[vector] = 1;
    if (this.#index === abi.VFIO_PCI_MSIX_IRQ_INDEX) this.#signal(vector);
  }

  /** What is on, for display. */
  inspect(): InspectedInterrupts {
    const vectors = this.#words[COUNT] ?? 0;
    const index = this.#index;
    if (index === NONE) return { mode: 'none', used: 0, vectors: 0 };
    if (index !== abi.VFIO_PCI_MSIX_IRQ_INDEX) {
      const mode = index === abi.VFIO_PCI_INTX_IRQ_INDEX ? 'INTx' : 'MSI';
      return { mode, used: vectors, vectors };
    }
    return { mode: 'MSI-X', used: this.#used.reduce((sum, used) => sum + used, 0), vectors };
  }

  get #index(): number {
    return (this.#words[INDEX] ?? 0) - 1;
  }

  #select(index: number, count: number): void {
    const old = this.#index;
    if (old === index && this.#words[COUNT] === count) return;
    if (old !== NONE) this.#leave(old);
    this.#words[INDEX] = index + 1;
    this.#words[COUNT] = count;
    if (index === abi.VFIO_PCI_INTX_IRQ_INDEX) this.#enterPin();
    else if (index === abi.VFIO_PCI_MSI_IRQ_INDEX) this.#enterMsi(count);
    else if (index === abi.VFIO_PCI_MSIX_IRQ_INDEX) this.#enterMsix(count);
  }

  #leave(index: number): void {
    this.#file.disableInterrupts(index);
    if (index === abi.VFIO_PCI_MSIX_IRQ_INDEX) this.#used.fill(0);
    const { pin, vmFd, gsi } = this.#plan;
    if (index !== abi.VFIO_PCI_INTX_IRQ_INDEX || pin === undefined) return;
    // The line goes low with it.
    vm.deassignIrqfd(vmFd, gsi, pin.trigger);
    drainEventfd(pin.trigger);
    drainEventfd(pin.resample);
  }

  #enterPin(): void {
    const { pin, vmFd, gsi } = this.#plan;
    if (pin === undefined) return;
    const intx = abi.VFIO_PCI_INTX_IRQ_INDEX;
    this.#check(vm.assignLevelIrqfd(vmFd, gsi, pin.trigger, pin.resample));
    this.#check(this.#file.setEventfds(intx, 0, [pin.trigger]));
    const unmask = abi.VFIO_IRQ_SET_ACTION_UNMASK;
    this.#check(this.#file.setEventfds(intx, 0, [pin.resample], unmask));
  }

  #enterMsi(count: number): void {
    const eventfds = this.#plan.eventfds.slice(0, count);
    this.#check(this.#file.setEventfds(abi.VFIO_PCI_MSI_IRQ_INDEX, 0, eventfds));
  }

  /** The device has MSI-X on from here on, before the driver sets any vector up. */
  #enterMsix(count: number): void {
    const none = new Array<number>(count).fill(-1);
    const index = abi.VFIO_PCI_MSIX_IRQ_INDEX;
    let result = this.#file.setEventfds(index, 0, none);
    // The host has fewer.
    if (result > 0) result = this.#file.setEventfds(index, 0, none.slice(0, result));
    this.#check(result);
    this.#used.forEach((used, vector) => {
      if (used === 1) this.#signal(vector);
    });
  }

  #signal(vector: number): void {
    const eventfd = this.#plan.eventfds[vector];
    if (eventfd === undefined) return;
    this.#check(this.#file.setEventfds(abi.VFIO_PCI_MSIX_IRQ_INDEX, vector, [eventfd]));
  }

  #check(result: number): void {
    if (result !== 0) this.#failed(result);
  }
}
