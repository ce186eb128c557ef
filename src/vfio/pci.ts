/** A passed PCI function on the board: its configuration space, BARs and interrupts, as each thread has them. */
import { ENOSPC } from '../abi/errno.ts';
import * as abi from '../abi/vfio.ts';
import type { RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { BarPages } from '../pci/bar-pages.ts';
import type { IntxLines } from '../pci/intx.ts';
import { MSIX_PENDING_OFFSET, type Msix, type MsixVector } from '../pci/msix.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { InspectedArea, InspectedBar, InspectedInterrupts } from './inspected-function.ts';
import { type PinEventfds, VfioInterrupts } from './interrupts.ts';
import type { DeviceShape, PassedBar } from './passed-device.ts';
import { PassedFunction } from './passed-function.ts';
import { VfioFile } from './vfio-file.ts';

/** The most vectors of MSI (PCI 3.0 §6.8.1.3). */
const MSI_MOST = 32;
const ALL_ONES: readonly number[] = [0, 0xff, 0xffff, 0, 0xffff_ffff];
const NOWHERE = -1;

/** Where a passed function and its file descriptors are; the same in every thread. */
export interface VfioPciPlan {
  readonly name: string;
  readonly slot: number;
  readonly shape: DeviceShape;
  /** Addresses that firmware would have given to the BARs, in their order. */
  readonly addresses: readonly number[];
  readonly vectors: readonly MsixVector[];
  readonly pin?: PinEventfds;
  /** The first of as many KVM memory slots as there are mapped areas. */
  readonly memorySlot: number;
  /** The host has taken the device back. */
  readonly gone: boolean;
}

/** How many message-signaled interrupts a device needs. */
export function vectorsOf({ msix, interrupts }: DeviceShape): number {
  return Math.max(msix?.vectors ?? 0, msiVectors(interrupts));
}

const msiVectors = (interrupts: readonly number[]): number =>
  Math.min(interrupts[abi.VFIO_PCI_MSI_IRQ_INDEX] ?? 0, MSI_MOST);

/** Whether the device has an interrupt pin. */
export const hasPin = ({ interrupts }: DeviceShape): boolean =>
  (interrupts[abi.VFIO_PCI_INTX_IRQ_INDEX] ?? 0) > 0;

/** The function's registers, as each thread has them. */
export class VfioPci {
  readonly pciFunction: PassedFunction;
  readonly plan: VfioPciPlan;
  readonly #interrupts: VfioInterrupts;
  readonly #pages: BarPages;
  /** A problem that the owner does not know of yet: what a call returned. */
  readonly #problem: Int32Array;

  /** @param changed called when there is a problem; the owner takes it with `takeProblem` */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    lines: IntxLines,
    vmFd: number,
    plan: VfioPciPlan,
    changed: () => void,
  ) {
    const { shape, vectors, slot } = plan;
    const file = new VfioFile(shape.fd);
    this.plan = plan;
    this.#problem = state.words(1);
    const areas = shape.bars.reduce((sum, { mapped }) => sum + mapped.length, 0);
    this.#pages = new BarPages(state, vmFd, plan.memorySlot, areas);
    const functionShape = {
      ...shape,
      msiVectors: msiVectors(shape.interrupts),
      hasPin: plan.pin !== undefined,
    };
    const pciFunction = new PassedFunction(
      state,
      interrupts,
      plan.name,
      functionShape,
      vectors,
      file,
    );
    this.pciFunction = pciFunction;
    if (plan.gone) pciFunction.markGone();
    pciFunction.setInterruptLine(lines.gsi(slot));
    const eventfds = vectors.map(({ eventfd }) => eventfd);
    const pin = plan.pin === undefined ? {} : { pin: plan.pin };
    const how = { vmFd, gsi: lines.gsi(slot), ...pin, eventfds };
    this.#interrupts = new VfioInterrupts(state, file, how, (result) => {
      if (this.#problem[0] !== 0) return;
      this.#problem[0] = result;
      changed();
    });
    const { msi, msix } = pciFunction;
    const update = (): void => this.#updateInterrupts();
    if (msi !== undefined) msi.enabledChanged = update;
    if (msix !== undefined) {
      msix.enabledChanged = update;
      msix.connecting = (vector) => {
        if (!pciFunction.gone) this.#interrupts.useVector(vector);
      };
    }
    this.#addBars(file);
  }

  /** Power-on state. */
  reset(): void {
    this.pciFunction.reset();
    if (!this.pciFunction.gone) this.#interrupts.reset();
  }

  /** What the host refused, once: a negative errno, or a number of vectors. */
  takeProblem(): number {
    const problem = this.#problem[0] ?? 0;
    this.#problem[0] = 0;
    return problem > 0 ? -ENOSPC : problem;
  }

  /** No interrupts from it any more. */
  stop(): void {
    if (!this.pciFunction.gone) this.#interrupts.stop();
  }

  /** Takes it from the guest, to which it is a device that does not answer any more. */
  remove(): void {
    if (this.pciFunction.gone) return;
    this.pciFunction.bars.disconnect();
    this.#interrupts.stop();
    this.pciFunction.markGone();
  }

  /** For display. */
  inspect(): { readonly bars: InspectedBar[]; readonly interrupts: InspectedInterrupts } {
    let next = 0;
    const bars = this.plan.shape.bars.map((bar): InspectedBar => {
      const first = next;
      next += bar.mapped.length;
      const { index, kind, size } = bar;
      const address = this.pciFunction.gone ? NOWHERE : this.pciFunction.bars.address(index);
      return {
        index,
        kind,
        size,
        address: address === NOWHERE ? null : `0x${address.toString(16)}`,
        areas: this.#inspectAreas(bar, first),
      };
    });
    return { bars, interrupts: this.#interrupts.inspect() };
  }

  /** All of a BAR: parts in memory slots, and what is between them. */
  #inspectAreas({ size, mapped }: PassedBar, first: number): InspectedArea[] {
    const areas: InspectedArea[] = [];
    let end = 0;
    const trap = (to: number): void => {
      if (to > end) areas.push({ offset: end, size: to - end, slot: null });
      end = to;
    };
    for (const [at, area] of mapped.entries()) {
      const slot = this.#pages.slotOf(first + at);
      if (slot === undefined) continue;
      trap(area.offset);
      areas.push({ offset: area.offset, size: area.size, slot });
      end = area.offset + area.size;
    }
    trap(size);
    return areas;
  }

  #updateInterrupts(): void {
    const { msi, msix, gone } = this.pciFunction;
    if (gone) return;
    const enabled = msix?.enabled === true ? msix.vectors.length : 0;
    this.#interrupts.update({ msi: msi?.enabled ?? 0, msix: enabled });
  }

  #addBars(file: VfioFile): void {
    const { shape, addresses } = this.plan;
    let next = 0;
    for (const [at, bar] of shape.bars.entries()) {
      const first = next;
      next += bar.mapped.length;
      const moved = (address: number): void => {
        bar.mapped.forEach((area, index) => {
          this.#pages.move(first + index, area, this.pciFunction.gone ? NOWHERE : address);
        });
      };
      const { kind, size, prefetchable } = bar;
      const region = this.#region(bar, file);
      const spec = { kind, size, prefetchable, region, moved };
      this.pciFunction.addBar(bar.index, spec, addresses[at] ?? 0);
    }
  }

  /** What of a BAR is an exit for the guest. */
  #region({ index, offset: position }: PassedBar, file: VfioFile): RegisterRegion {
    const { pciFunction } = this;
    const { msix } = pciFunction;
    const structures = msixStructures(this.plan.shape, index);
    return {
      read: (offset, size) => {
        if (pciFunction.gone) return ALL_ONES[size] ?? 0;
        const found = structureAt(structures, offset);
        if (found === undefined) return file.read(position + offset, size);
        return readMsix(msix, found.own, offset - found.start, size);
      },
      write: (offset, size, value) => {
        if (pciFunction.gone) return;
        const found = structureAt(structures, offset);
        if (found === undefined) file.write(position + offset, size, value);
        else if (found.own === 0) msix?.write(offset - found.start, size, value);
      },
    };
  }
}

interface MsixStructure {
  readonly start: number;
  readonly end: number;
  /** Where it is behind an `Msix`. */
  readonly own: number;
}

/** Table and pending bits, if they are in this BAR. */
function msixStructures({ msix }: DeviceShape, bar: number): MsixStructure[] {
  return (msix?.areas ?? []).flatMap(({ bar: where, offset, size }, index) =>
    where === bar
      ? [{ start: offset, end: offset + size, own: index === 0 ? 0 : MSIX_PENDING_OFFSET }]
      : [],
  );
}

function structureAt(
  structures: readonly MsixStructure[],
  offset: number,
): MsixStructure | undefined {
  for (const structure of structures) {
    if (offset >= structure.start && offset < structure.end) return structure;
  }
  return undefined;
}

/** The device may have more vectors than its guest gets to see: those read as 0. */
function readMsix(msix: Msix | undefined, own: number, offset: number, size: number): number {
  if (msix === undefined) return 0;
  const isTable = own !== MSIX_PENDING_OFFSET;
  return isTable && offset >= MSIX_PENDING_OFFSET ? 0 : msix.read(own + offset, size);
}
