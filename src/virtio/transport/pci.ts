/**
 * virtio over PCI, modern (virtio 1.3 §4.1). One memory BAR holds the common configuration, ISR
 * status and device configuration; another the MSI-X table; notifications have a BAR of their own,
 * memory or ports, in which each queue has its own address, so that each has its own doorbell.
 * Where it is ports there are doorbells in the first BAR as well: drivers in the guest's userland
 * map memory, and nothing else (§4.1.4 lets a device offer several, the preferred one first).
 */
import {
  PCI_VENDOR_ID_REDHAT_QUMRANET,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_DEVICE_ID_BASE,
  VIRTIO_PCI_ISR_CONFIG,
  VIRTIO_PCI_ISR_QUEUE,
  virtio_pci_common_cfg,
} from '../../abi/virtio-pci.ts';
import type { RegisterRegion } from '../../bus/address-space.ts';
import type { InterruptController } from '../../bus/interrupt-controller.ts';
import { drainEventfd, signalEventfd } from '../../host/fd.ts';
import { BarPages } from '../../pci/bar-pages.ts';
import { PciFunction } from '../../pci/function.ts';
import type { IntxLines, IntxPin } from '../../pci/intx.ts';
import { MSIX_BAR_SIZE, Msix, type MsixVector, msixInBar } from '../../pci/msix.ts';
import { addPowerManagement } from '../../pci/power-management.ts';
import type { SharedState } from '../../state/shared-state.ts';
import { DeviceRegisters, QUEUE_VECTOR } from './device-registers.ts';
import { PciCommonConfig, PciConfigAccess, structureCapability } from './pci-structures.ts';
import type {
  DeviceShape,
  DriverEvents,
  InterruptKind,
  NotifyPlace,
  VirtioTransport,
} from './transport.ts';

const STRUCTURES_BAR = 0;
const MSIX_BAR = 2;
const NOTIFY_BAR = 4;

const COMMON_OFFSET = 0x0000;
const ISR_OFFSET = 0x1000;
const DEVICE_OFFSET = 0x2000;
const NOTIFY_OFFSET = 0x3000;
const STRUCTURES_SIZE = 0x4000;
const DEVICE_SIZE = NOTIFY_OFFSET - DEVICE_OFFSET;
const NOTIFY_SIZE = STRUCTURES_SIZE - NOTIFY_OFFSET;
/** Bytes between the doorbells of two queues: room for NOTIFICATION_DATA's 32 bits (§4.1.4.4). */
const NOTIFY_MULTIPLIER = 4;
const PAGE_SIZE = 0x1000;

/** Where a virtio function and its file descriptors are; the same in every thread. */
export interface VirtioPciPlan {
  readonly shape: DeviceShape;
  readonly pciClass: number;
  readonly slot: number;
  /** Whether the doorbells are ports or memory. */
  readonly notify: 'io' | 'memory';
  /** Pages of the host that take notifications in the place of the eventfds, which needs doorbells in memory. */
  readonly pages?: {
    /** Host virtual addresses, by queue. */
    readonly addresses: readonly number[];
    /** The first of as many KVM memory slots. */
    readonly memorySlot: number;
  };
  /** Addresses that firmware would have given to the BARs. */
  readonly structuresAddress: number;
  readonly msixAddress: number;
  readonly notifyAddress: number;
  /** One for the configuration, one for each queue. */
  readonly vectors: readonly MsixVector[];
  /** eventfd of each queue's notifications. */
  readonly kicks: readonly number[];
  /** Signaled by the device's datapath while the device has no MSI-X; leads to `assertQueueInterrupt`. */
  readonly intxEventfd: number;
}

/** Bytes of a device's notification BAR. @param pages each queue has a page of its own in it */
export function notifyBarSize(queues: number, pages = false): number {
  return Math.max(16, 2 ** Math.ceil(Math.log2(queues * (pages ? PAGE_SIZE : NOTIFY_MULTIPLIER))));
}

/** Bytes of the other BARs. */
export const VIRTIO_STRUCTURES_BAR_SIZE: number = STRUCTURES_SIZE;
export const VIRTIO_MSIX_BAR_SIZE: number = MSIX_BAR_SIZE;

/** A virtio device on PCI, as each thread has it. */
export class VirtioPci implements VirtioTransport {
  readonly pciFunction: PciFunction;
  readonly registers: DeviceRegisters;
  readonly plan: VirtioPciPlan;
  readonly #msix: Msix;
  readonly #pages: BarPages | undefined;
  /** Bytes between two doorbells. */
  readonly #multiplier: number;
  readonly #pin: IntxPin;

  constructor(
    state: SharedState,
    interrupts: InterruptController,
    lines: IntxLines,
    plan: VirtioPciPlan,
    events: DriverEvents,
    vmFd: number,
  ) {
    const { shape, slot, kicks, pages } = plan;
    this.plan = plan;
    this.#multiplier = pages === undefined ? NOTIFY_MULTIPLIER : PAGE_SIZE;
    this.#pages = pages && new BarPages(state, vmFd, pages.memorySlot, pages.addresses.length);
    this.registers = new DeviceRegisters(state, shape, events, () => this.#silence());
    this.#msix = new Msix(state, interrupts, msixInBar(MSIX_BAR), plan.vectors);
    this.#msix.enabledChanged = () => {
      this.#updatePin();
      this.registers.interruptsChanged();
    };
    const id = VIRTIO_PCI_DEVICE_ID_BASE + shape.deviceId;
    this.pciFunction = new PciFunction(state, interrupts, shape.name, {
      vendorId: PCI_VENDOR_ID_REDHAT_QUMRANET,
      deviceId: id,
      revision: 1,
      classCode: plan.pciClass,
      subsystemVendorId: PCI_VENDOR_ID_REDHAT_QUMRANET,
      subsystemId: id,
      interruptPin: true,
    });
    const { pciFunction } = this;
    pciFunction.commandWritten = () => this.#updatePin();
    pciFunction.setInterruptLine(lines.gsi(slot));
    this.#pin = lines.pin(slot, pciFunction);
    const doorbells = this.#notify();
    const structures = {
      kind: 'memory',
      size: STRUCTURES_SIZE,
      region: this.#structures(doorbells),
    } as const;
    pciFunction.addBar(STRUCTURES_BAR, structures, plan.structuresAddress);
    const table = { kind: 'memory', size: MSIX_BAR_SIZE, region: this.#msix } as const;
    pciFunction.addBar(MSIX_BAR, table, plan.msixAddress);
    const size = notifyBarSize(kicks.length, pages !== undefined);
    const moved = (address: number): void => this.#movePages(address);
    const notify = { kind: plan.notify, size, region: doorbells, moved };
    pciFunction.addBar(NOTIFY_BAR, notify, plan.notifyAddress);
    kicks.forEach((kick, queue) => {
      const offset = queue * this.#multiplier;
      pciFunction.bars.addDoorbell(NOTIFY_BAR, offset, kick);
      if (plan.notify === 'io') {
        pciFunction.bars.addDoorbell(STRUCTURES_BAR, NOTIFY_OFFSET + offset, kick);
      }
    });
    this.#addCapabilities(size);
    addPowerManagement(pciFunction, state);
  }

  get kicks(): readonly number[] {
    return this.plan.kicks;
  }

  get lineEventfd(): number {
    return this.plan.intxEventfd;
  }

  get notifyPlaces(): readonly NotifyPlace[] {
    const { notify } = this.plan;
    const { bars } = this.pciFunction;
    const places: NotifyPlace[] = [];
    const add = (space: NotifyPlace['space'], bar: number, offset: number): void => {
      const base = bars.address(bar);
      const by = this.#pages?.slotOf(0) === undefined ? 'ioeventfd' : 'hardware';
      if (base >= 0) places.push({ space, address: base + offset, by });
    };
    add(notify === 'io' ? 'port' : 'memory', NOTIFY_BAR, 0);
    if (notify === 'io') add('memory', STRUCTURES_BAR, NOTIFY_OFFSET);
    return places;
  }

  get interruptKind(): InterruptKind {
    return this.#msix.enabled ? 'msi-x' : 'intx';
  }

  /** Power-on state. */
  reset(): void {
    this.pciFunction.reset();
    this.#msix.reset();
    this.registers.powerOn();
  }

  /** The eventfd that interrupts the driver for a queue, or -1 when it chose none. */
  callEventfd(queue: number): number {
    if (!this.#msix.enabled) return this.lineEventfd;
    return this.#msix.eventfd(this.registers.queueWord(queue, QUEUE_VECTOR));
  }

  /** Sends a configuration change notification (§4.1.5.3); the ISR shows it even with MSI-X. */
  notifyConfigChange(): void {
    this.#assert(VIRTIO_PCI_ISR_CONFIG);
    if (!this.#msix.enabled) return;
    const eventfd = this.#msix.eventfd(this.registers.configVector);
    if (eventfd >= 0) signalEventfd(eventfd);
  }

  /** A queue was used while the driver has no MSI-X (§4.1.5.1.1). */
  assertQueueInterrupt(): void {
    if (!this.#msix.enabled) this.#assert(VIRTIO_PCI_ISR_QUEUE);
  }

  #assert(bit: number): void {
    this.registers.isr |= bit;
    this.#updatePin();
  }

  /** The pin follows the ISR (§4.1.4.5.1), unless MSI-X replaces it (PCI 3.0 §6.8.2.3). */
  #updatePin(): void {
    this.#pin.set(this.registers.isr !== 0 && !this.#msix.enabled);
  }

  /** After a reset no earlier event is notified (§2.4.1). */
  #silence(): void {
    drainEventfd(this.plan.intxEventfd);
    this.#msix.dropPending();
    this.#updatePin();
  }

  #structures(doorbells: RegisterRegion): RegisterRegion {
    const common = new PciCommonConfig(this.registers, this.plan.vectors.length);
    return {
      read: (offset, size) => {
        if (offset >= NOTIFY_OFFSET) return doorbells.read(offset - NOTIFY_OFFSET, size);
        if (offset >= DEVICE_OFFSET)
          return this.registers.config.read(offset - DEVICE_OFFSET, size);
        if (offset === ISR_OFFSET) return this.#readIsr();
        return offset < virtio_pci_common_cfg.size ? common.read(offset, size) : 0;
      },
      write: (offset, size, value) => {
        if (offset >= NOTIFY_OFFSET) {
          doorbells.write(offset - NOTIFY_OFFSET, size, value);
        } else if (offset >= DEVICE_OFFSET) {
          this.registers.writeConfig(offset - DEVICE_OFFSET, size, value);
        } else if (offset < virtio_pci_common_cfg.size) {
          common.write(offset - COMMON_OFFSET, size, value);
        }
      },
    };
  }

  /** Reading the ISR status acknowledges it (§4.1.4.5.1). */
  #readIsr(): number {
    const isr = this.registers.isr;
    this.registers.isr = 0;
    this.#updatePin();
    return isr;
  }

  /** Notifications without a doorbell: through the configuration window, or to BARs that moved. */
  #notify(): RegisterRegion {
    return {
      read: () => 0,
      write: (offset) => {
        const kick = this.plan.kicks[Math.floor(offset / this.#multiplier)];
        if (kick !== undefined) signalEventfd(kick);
      },
    };
  }

  /** Notifications to them are no exits, and reach no eventfd. */
  #movePages(bar: number): void {
    for (const [queue, address] of (this.plan.pages?.addresses ?? []).entries()) {
      this.#pages?.move(queue, { offset: queue * PAGE_SIZE, size: PAGE_SIZE, address }, bar);
    }
  }

  #addCapabilities(notifySize: number): void {
    const { pciFunction } = this;
    const multiplier = new Uint8Array(4);
    new DataView(multiplier.buffer).setUint32(0, this.#multiplier, true);
    const add = (type: number, bar: number, offset: number, length: number, extra?: Uint8Array) =>
      pciFunction.addCapability(structureCapability(type, bar, offset, length, extra));
    add(VIRTIO_PCI_CAP_COMMON_CFG, STRUCTURES_BAR, COMMON_OFFSET, virtio_pci_common_cfg.size);
    add(VIRTIO_PCI_CAP_ISR_CFG, STRUCTURES_BAR, ISR_OFFSET, 1);
    if (this.plan.shape.config.length > 0) {
      add(VIRTIO_PCI_CAP_DEVICE_CFG, STRUCTURES_BAR, DEVICE_OFFSET, DEVICE_SIZE);
    }
    add(VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_BAR, 0, notifySize, multiplier);
    if (this.plan.notify === 'io') {
      add(VIRTIO_PCI_CAP_NOTIFY_CFG, STRUCTURES_BAR, NOTIFY_OFFSET, NOTIFY_SIZE, multiplier);
    }
    pciFunction.addCapability(new PciConfigAccess((bar) => pciFunction.barRegion(bar)));
    pciFunction.addCapability(this.#msix);
  }
}
