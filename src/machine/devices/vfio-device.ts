/** A passed-through PCI function of a machine. */

import { pci_type0_header } from '../../abi/pci.ts';
import { VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX } from '../../abi/vfio.ts';
import { CleanupStack } from '../../host/cleanup-stack.ts';
import { InternalError } from '../../host/errors.ts';
import { Eventfd } from '../../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { errnoName } from '../../host/syscall.ts';
import { onProcessExit } from '../../host/threads.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { GuestMemory, GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { VfioDevice } from '../../vfio/device.ts';
import { DmaEndpoint } from '../../vfio/dma-endpoint.ts';
import type { DmaSpace } from '../../vfio/dma-space.ts';
import type { DmaSpaces } from '../../vfio/dma-spaces.ts';
import type { InspectedFunction } from '../../vfio/inspected-function.ts';
import { PassedDevice } from '../../vfio/passed-device.ts';
import { hasPin, type VfioPci, vectorsOf } from '../../vfio/pci.ts';
import { addressText, type DeviceMessage, type DevicePlan } from '../board/board-devices.ts';
import type { MachineDevice, PluggedBoard } from './machine-device.ts';
import type { DeviceResources } from './resource-allocator.ts';

interface Plugged {
  readonly board: PluggedBoard;
  readonly registers: VfioPci;
  readonly place: string;
}

/** Owns the function's file, and gives it to one board after the other. */
export class VfioMachineDevice implements MachineDevice {
  readonly queueNames: readonly string[] = [];
  /** The host function's memory stays mapped for the machine's life. */
  readonly removable = false;
  readonly #device: VfioDevice;
  readonly #space: DmaSpace;
  readonly #passed: PassedDevice;
  /** Closed when the host takes the device back, or at the end. */
  readonly #open = new CleanupStack();
  readonly #lines: LogLimit;
  readonly #forget: () => void;
  /** Behind the machine's IOMMU, which maps what it reaches. */
  readonly #behind: boolean;
  #resets = 0;
  #plan: DevicePlan<'vfio'> | undefined;
  #plugged: Plugged | undefined;

  /**
   * @param spaces of the machine
   * @param behind whether it is behind the machine's IOMMU
   * @throws UsageError or HostError when it cannot be opened
   */
  constructor(device: VfioDevice, spaces: DmaSpaces, behind: boolean, log: (text: string) => void) {
    this.#device = device;
    this.#behind = behind;
    this.#space = spaces.choose(device.pciFunction, device.iommufd, behind);
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`));
    this.#passed = new PassedDevice(device.pciFunction, this.#space);
    this.#open.use(this.#passed);
    try {
      this.#watchAll(device.pciFunction.address);
    } catch (error) {
      this.#open.dispose();
      throw error;
    }
    // Its driver gets it back even if the process ends in the middle of things.
    this.#forget = onProcessExit(() => {
      this.#open.dispose();
      this.#device.close();
    });
  }

  get name(): string {
    return this.#device.name;
  }

  /** Whether it is behind the machine's IOMMU. */
  get iommu(): boolean {
    return this.#behind;
  }

  /** Where it is on the board. */
  get planned(): DevicePlan<'vfio'> | undefined {
    return this.#plan;
  }

  /** Its addresses, once, behind an IOMMU; the caller closes them. */
  translate(ram: GuestMemory): DmaEndpoint {
    const text = 'the host does not let it reach all of the guest’s RAM';
    return new DmaEndpoint(this.#space, ram, () => this.#lines.say(text));
  }

  plan(resources: DeviceResources): DevicePlan<'vfio'> {
    const { shape } = this.#passed;
    const { bars } = shape;
    // Large ones first, lest their alignment wastes what is left of the window.
    const bySize = [...bars].sort((a, b) => b.size - a.size);
    const placed = new Map(
      bySize.map(({ index, kind, prefetchable, size }) => {
        if (kind === 'io') return [index, resources.ports(size)];
        const is64 = kind === 'memory64' && prefetchable;
        return [index, is64 ? resources.memory64(size) : resources.memory(size)];
      }),
    );
    const pin = hasPin(shape)
      ? { pin: { trigger: resources.eventfd(), resample: resources.eventfd() } }
      : {};
    this.#plan = {
      model: 'vfio',
      plan: {
        name: this.name,
        slot: resources.slot(),
        shape,
        addresses: bars.map(({ index }) => placed.get(index) ?? 0),
        vectors: Array.from({ length: vectorsOf(shape) }, () => resources.vector()),
        ...pin,
        memorySlot: resources.memorySlots(bars.reduce((sum, { mapped }) => sum + mapped.length, 0)),
        gone: this.#open.disposed,
      },
    };
    return this.#plan;
  }

  plug(board: PluggedBoard, memory: GuestMemoryShare): void {
    if (this.#plan === undefined) throw new InternalError(`${this.name} has no plan`);
    const { registers, address } = board.device(this.#plan);
    this.#plugged = { board, registers, place: addressText(address) };
    if (!this.#open.disposed && !this.#behind) this.#space.map(memory);
  }

  message(message: DeviceMessage): void {
    if (message.kind !== 'changed' || this.#plugged === undefined) return;
    const { board, registers } = this.#plugged;
    const problem = board.state.lock.with(() => registers.takeProblem());
    if (problem < 0) this.#lines.say(`the host gives it no interrupt: ${errnoName(-problem)}`);
  }

  /** Only the vCPUs rest: the device continues on its own. */
  async pause(): Promise<void> {}

  async resume(): Promise<void> {}

  /** The next guest finds it as after power-on; until then it does not reach memory. */
  async unplug(): Promise<void> {
    const plugged = this.#plugged;
    this.#plugged = undefined;
    this.#lines.flush();
    if (plugged === undefined || this.#open.disposed) return;
    plugged.board.state.lock.with(() => plugged.registers.stop());
    if (this.#passed.quiesce()) this.#resets += 1;
  }

  /** A snapshot, for display. */
  inspect(): InspectedFunction {
    const { address, driver = null, group } = this.#device.pciFunction;
    const { config } = this.#passed.shape;
    const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
    const { vendor_id, device_id, revision_id } = pci_type0_header;
    const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
    const ids = [vendor_id, device_id].map(({ offset }) => hex(view.getUint16(offset, true), 4));
    const plugged = this.#plugged;
    const seen = plugged?.board.state.lock.with(() => plugged.registers.inspect());
    return {
      name: this.name,
      address,
      group,
      driver,
      id: ids.join(':'),
      classCode: hex(view.getUint32(revision_id.offset, true) >>> 8, 6),
      ...(plugged === undefined ? {} : { place: plugged.place }),
      gone: this.#open.disposed,
      bars: seen?.bars ?? [],
      interrupts: seen?.interrupts ?? { mode: 'none', used: 0, vectors: 0 },
      pinned: this.#space.pinned,
      resetMethod: this.#open.disposed ? 'none' : this.#passed.resetMethod,
      resets: this.#resets,
    };
  }

  async close(): Promise<void> {
    this.#forget();
    try {
      this.#open.dispose();
    } finally {
      this.#device.close();
    }
  }

  /** Ends the device, and not the machine. */
  #giveBack(): void {
    const plugged = this.#plugged;
    if (plugged !== undefined) {
      plugged.board.state.lock.with(() => plugged.registers.remove());
    }
    this.#open.dispose();
  }

  #watchAll(address: string): void {
    this.#watch(VFIO_PCI_ERR_IRQ_INDEX, () =>
      this.#lines.say(`${address} reported an error that it cannot recover from (AER)`),
    );
    this.#watch(VFIO_PCI_REQ_IRQ_INDEX, () => {
      if (this.#open.disposed) return;
      this.#lines.say(`the host wants ${address} back: the guest has it no longer`);
      this.#giveBack();
    });
  }

  /** Calls back when an interrupt to the process arrives. */
  #watch(index: number, callback: () => void): void {
    if ((this.#passed.shape.interrupts[index] ?? 0) === 0) return;
    const eventfd = new Eventfd();
    const watch = new LoopWatch(eventfd.fd, LOOP_READABLE, () => {
      if (eventfd.drain()) callback();
    });
    this.#passed.file.setEventfds(index, 0, [eventfd.fd]);
    this.#open.defer(() => {
      watch.close();
      eventfd.close();
    });
  }
}
