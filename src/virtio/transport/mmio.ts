/**
 * virtio over MMIO, version 2 (virtio 1.3 §4.2): a window of control registers, 32 bits each, with
 * the configuration space after them, one register for all notifications, one interrupt line.
 */
import * as mmio from '../../abi/virtio-mmio.ts';
import { PCI_VENDOR_ID_REDHAT_QUMRANET } from '../../abi/virtio-pci.ts';
import { hasFeature, VIRTIO_F_NOTIFICATION_DATA } from '../../abi/virtio-ring.ts';
import type { RegisterRegion } from '../../bus/address-space.ts';
import type {
  InterruptController,
  InterruptLine,
  InterruptLines,
} from '../../bus/interrupt-controller.ts';
import { drainEventfd, signalEventfd } from '../../host/fd.ts';
import type { SharedState } from '../../state/shared-state.ts';
import {
  DeviceRegisters,
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_ENABLE,
  QUEUE_RESET,
} from './device-registers.ts';
import type { DeviceShape, DriverEvents, NotifyPlace, VirtioTransport } from './transport.ts';

/** Length and base of a shared memory region that does not exist, by halves. */
const NO_REGION = 0xffff_ffff;
/** Bits of a notification that name the queue (§4.2.3.3); the others are NOTIFICATION_DATA's. */
const NOTIFY_QUEUE_MASK = 0xffff;

/** Read-only registers, by the specification's names. */
const READ_ONLY: ReadonlyMap<number, string> = new Map([
  [mmio.VIRTIO_MMIO_MAGIC_VALUE, 'MagicValue'],
  [mmio.VIRTIO_MMIO_VERSION, 'Version'],
  [mmio.VIRTIO_MMIO_DEVICE_ID, 'DeviceID'],
  [mmio.VIRTIO_MMIO_VENDOR_ID, 'VendorID'],
  [mmio.VIRTIO_MMIO_DEVICE_FEATURES, 'DeviceFeatures'],
  [mmio.VIRTIO_MMIO_QUEUE_NUM_MAX, 'QueueSizeMax'],
  [mmio.VIRTIO_MMIO_INTERRUPT_STATUS, 'InterruptStatus'],
  [mmio.VIRTIO_MMIO_SHM_LEN_LOW, 'SHMLenLow'],
  [mmio.VIRTIO_MMIO_SHM_LEN_HIGH, 'SHMLenHigh'],
  [mmio.VIRTIO_MMIO_SHM_BASE_LOW, 'SHMBaseLow'],
  [mmio.VIRTIO_MMIO_SHM_BASE_HIGH, 'SHMBaseHigh'],
  [mmio.VIRTIO_MMIO_CONFIG_GENERATION, 'ConfigGeneration'],
]);

/** Bytes of a device's window: the control registers and 7.75 KiB of configuration space. */
export const VIRTIO_MMIO_WINDOW_SIZE = 0x2000;

/** Where a virtio device and its file descriptors are; the same in every thread. */
export interface VirtioMmioPlan {
  readonly shape: DeviceShape;
  /** Number among the devices of this transport, from 0, which gives it its interrupt line. */
  readonly index: number;
  readonly address: number;
  /** eventfd of each queue's notifications. */
  readonly kicks: readonly number[];
  /** Signaled by the device's datapath; leads to `assertQueueInterrupt`. */
  readonly lineEventfd: number;
}

/** A virtio device in memory, as each thread has it. */
export class VirtioMmio implements VirtioTransport {
  readonly registers: DeviceRegisters;
  readonly plan: VirtioMmioPlan;
  readonly interruptKind = 'line';
  readonly #interrupts: InterruptController;
  readonly #line: InterruptLine;

  constructor(
    state: SharedState,
    interrupts: InterruptController,
    lines: InterruptLines,
    plan: VirtioMmioPlan,
    events: DriverEvents,
  ) {
    this.plan = plan;
    this.#interrupts = interrupts;
    this.#line = lines.line(plan.index);
    this.registers = new DeviceRegisters(state, plan.shape, events, () => this.#silence());
  }

  get kicks(): readonly number[] {
    return this.plan.kicks;
  }

  get lineEventfd(): number {
    return this.plan.lineEventfd;
  }

  /** A value with data is not the doorbell's (§4.2.3.3). */
  get notifyPlaces(): readonly NotifyPlace[] {
    const address = this.plan.address + mmio.VIRTIO_MMIO_QUEUE_NOTIFY;
    const hasData = hasFeature(this.registers.driverFeatures, VIRTIO_F_NOTIFICATION_DATA);
    return [{ space: 'memory', address, by: hasData ? 'exit' : 'ioeventfd' }];
  }

  /** Power-on state. Once for each VM, by one thread. */
  reset(): void {
    this.registers.powerOn();
    const address = this.plan.address + mmio.VIRTIO_MMIO_QUEUE_NOTIFY;
    this.kicks.forEach((kick, queue) => {
      this.#interrupts.addDoorbell(address, false, kick, queue);
    });
  }

  callEventfd(): number {
    return this.lineEventfd;
  }

  assertQueueInterrupt(): void {
    this.#assert(mmio.VIRTIO_MMIO_INT_VRING);
  }

  notifyConfigChange(): void {
    this.#assert(mmio.VIRTIO_MMIO_INT_CONFIG);
  }

  /** The window. */
  readonly region: RegisterRegion = {
    read: (offset, size) => {
      if (offset >= mmio.VIRTIO_MMIO_CONFIG) {
        return this.registers.config.read(offset - mmio.VIRTIO_MMIO_CONFIG, size);
      }
      return isControl(offset, size) ? this.#read(offset) : 0;
    },
    write: (offset, size, value) => {
      if (offset >= mmio.VIRTIO_MMIO_CONFIG) {
        this.registers.writeConfig(offset - mmio.VIRTIO_MMIO_CONFIG, size, value);
      } else if (isControl(offset, size)) this.#write(offset, value);
    },
  };

  /** Write-only registers read as 0. */
  #read(offset: number): number {
    const { registers, plan } = this;
    const queue = registers.queueSelect >>> 0;
    switch (offset) {
      case mmio.VIRTIO_MMIO_MAGIC_VALUE:
        return mmio.VIRTIO_MMIO_MAGIC;
      case mmio.VIRTIO_MMIO_VERSION:
        return mmio.VIRTIO_MMIO_MODERN;
      case mmio.VIRTIO_MMIO_DEVICE_ID:
        return plan.shape.deviceId;
      case mmio.VIRTIO_MMIO_VENDOR_ID:
        return PCI_VENDOR_ID_REDHAT_QUMRANET;
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES:
        return registers.readDeviceFeature();
      case mmio.VIRTIO_MMIO_QUEUE_NUM_MAX:
        return plan.shape.queueSizes[queue] ?? 0;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        return registers.queueWord(queue, QUEUE_ENABLE);
      case mmio.VIRTIO_MMIO_INTERRUPT_STATUS:
        return this.#readInterruptStatus();
      case mmio.VIRTIO_MMIO_STATUS:
        return registers.status;
      case mmio.VIRTIO_MMIO_SHM_LEN_LOW:
      case mmio.VIRTIO_MMIO_SHM_LEN_HIGH:
      case mmio.VIRTIO_MMIO_SHM_BASE_LOW:
      case mmio.VIRTIO_MMIO_SHM_BASE_HIGH:
        return NO_REGION;
      case mmio.VIRTIO_MMIO_QUEUE_RESET:
        return registers.queueWord(queue, QUEUE_RESET);
      case mmio.VIRTIO_MMIO_CONFIG_GENERATION:
        return registers.config.generation;
      default:
        return 0;
    }
  }

  #write(offset: number, value: number): void {
    const { registers } = this;
    const queue = registers.queueSelect >>> 0;
    switch (offset) {
      case mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        registers.deviceFeatureSelect = value;
        return;
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES:
        registers.writeDriverFeature(value);
        return;
      case mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        registers.driverFeatureSelect = value;
        return;
      case mmio.VIRTIO_MMIO_QUEUE_SEL:
        registers.queueSelect = value;
        return;
      case mmio.VIRTIO_MMIO_QUEUE_NUM:
        registers.writeQueueSize(queue, value);
        return;
      case mmio.VIRTIO_MMIO_QUEUE_READY:
        if (value === 1) registers.enableQueue(queue);
        else if (value === 0) this.#stopQueue(queue);
        return;
      case mmio.VIRTIO_MMIO_QUEUE_NOTIFY:
        this.#notify(value);
        return;
      case mmio.VIRTIO_MMIO_INTERRUPT_ACK:
        registers.isr &= ~value;
        this.#updateLine();
        return;
      case mmio.VIRTIO_MMIO_STATUS:
        registers.writeStatus(value);
        registers.awaitReset(this.#interrupts);
        return;
      case mmio.VIRTIO_MMIO_QUEUE_RESET:
        if (value === 1) registers.resetQueue(queue);
        return;
      default: {
        const word = addressWord(offset);
        const readOnly = READ_ONLY.get(offset);
        if (word >= 0) registers.setQueueWord(queue, word, value);
        else if (readOnly !== undefined) registers.readOnlyWritten(readOnly);
      }
    }
  }

  /**
   * The driver reads QueueReady back for synchronization (§4.2.2.2), which Linux also takes for the end
   * of a reset, and frees the rings: hence both are complete when the write returns.
   */
  #stopQueue(queue: number): void {
    this.registers.stopQueue(queue);
    this.registers.awaitReset(this.#interrupts);
    this.registers.awaitQueueStop(queue, this.#interrupts);
  }

  /** Notifications without a doorbell: those with data, whose value is not the queue alone. */
  #notify(value: number): void {
    const kick = this.kicks[value & NOTIFY_QUEUE_MASK];
    if (kick !== undefined) signalEventfd(kick);
  }

  /** An event shows from the moment it takes place (§4.2.2.1), before its signal arrives. */
  #readInterruptStatus(): number {
    if (drainEventfd(this.lineEventfd)) this.assertQueueInterrupt();
    return this.registers.isr;
  }

  #assert(bit: number): void {
    this.registers.isr |= bit;
    this.#updateLine();
  }

  /** The interrupt is asserted while a bit of InterruptStatus is set (§4.2.3.4). */
  #updateLine(): void {
    this.#line.set(this.registers.isr !== 0);
  }

  /** After a reset no earlier event is notified (§2.4.1). */
  #silence(): void {
    drainEventfd(this.lineEventfd);
    this.#updateLine();
  }
}

/** Control registers are accessed by 32 bits, aligned, or not at all (§4.2.2.2). */
function isControl(offset: number, size: number): boolean {
  return size === 4 && offset % 4 === 0;
}

/** The queue's word that half of an address is, or -1. */
function addressWord(offset: number): number {
  switch (offset) {
    case mmio.VIRTIO_MMIO_QUEUE_DESC_LOW:
      return QUEUE_DESC;
    case mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH:
      return QUEUE_DESC + 1;
    case mmio.VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      return QUEUE_DRIVER;
    case mmio.VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      return QUEUE_DRIVER + 1;
    case mmio.VIRTIO_MMIO_QUEUE_USED_LOW:
      return QUEUE_DEVICE;
    case mmio.VIRTIO_MMIO_QUEUE_USED_HIGH:
      return QUEUE_DEVICE + 1;
    default:
      return -1;
  }
}
