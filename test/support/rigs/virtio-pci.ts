/** Virtio functions on a PCI bus without a VM: a test plays the guest by ports and addresses. */
import * as pci from '../../../src/abi/pci.ts';
import {
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  virtio_pci_cap,
  virtio_pci_common_cfg,
} from '../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { AddressSpace } from '../../../src/bus/address-space.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { PciBus } from '../../../src/pci/bus.ts';
import { IntxLines } from '../../../src/pci/intx.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import {
  CHANGE_CONFIG,
  CHANGE_DRIVER_OK,
  CHANGE_INTERRUPTS,
  CHANGE_QUEUES,
  CHANGE_RESET,
  type DeviceRegisters,
} from '../../../src/virtio/transport/device-registers.ts';
import { notifyBarSize, VirtioPci } from '../../../src/virtio/transport/pci.ts';
import type { DeviceShape } from '../../../src/virtio/transport/transport.ts';
import { FakeInterrupts } from '../fakes/interrupts.ts';

const header = pci.pci_type0_header;
const INTX_BASE = 16;
const INTX_COUNT = 4;
const FIRST_ROUTE = 24;

/** Name of a field of the common configuration. */
export type CommonField = Exclude<keyof typeof virtio_pci_common_cfg, 'size'>;

/** A capability as the guest finds it. */
export interface FoundCapability {
  readonly id: number;
  readonly offset: number;
}

/** What a rig's device is, where it differs from the default. */
export interface RigOptions extends Partial<DeviceShape> {
  readonly slots?: readonly number[];
  readonly notify?: 'io' | 'memory';
}

const DEFAULT_SHAPE: DeviceShape = {
  name: 'test0',
  deviceId: 42,
  features: featureSet(0, 5, VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET),
  featureDependencies: [[5, 0]],
  queueSizes: [64, 128, 256],
  config: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
  configWriteMask: Uint8Array.of(0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0),
};

/** Bus 0 with the same device in each slot; slot 1 alone by default. */
export class VirtioPciRig implements Disposable {
  readonly port = new FakeInterrupts();
  readonly state = new SharedState(SharedState.allocate(0x8000));
  readonly ports = new AddressSpace();
  readonly memory = new AddressSpace();
  readonly bus = new PciBus(this.state, this.ports, this.memory);
  readonly lines = new IntxLines(this.state, this.port, INTX_BASE, INTX_COUNT);
  readonly shape: DeviceShape;
  readonly devices: readonly VirtioPci[];
  /** Messages to the owner that it has not answered by `takeEvents`. */
  messages = 0;
  readonly #slots: readonly number[];
  readonly #eventfds: Eventfd[] = [];
  #routes = FIRST_ROUTE;

  constructor({ slots = [1], notify = 'memory', ...shape }: RigOptions = {}) {
    this.shape = { ...DEFAULT_SHAPE, ...shape };
    this.ports.add(0xcf8, 8, this.bus.mechanism1);
    this.memory.add(0xe000_0000, 0x10_0000, this.bus.ecam);
    this.#slots = slots;
    this.devices = slots.map((slot) => this.#device(slot, notify));
    this.bus.reset();
    for (const device of this.devices) device.reset();
    this.port.take();
  }

  [Symbol.dispose](): void {
    for (const eventfd of this.#eventfds) eventfd.close();
  }

  get device(): VirtioPci {
    return this.devices[0] as VirtioPci;
  }

  /** Reads configuration space through ECAM. */
  config(offset: number, size: number, slot = 1): number {
    return this.readMemory(0xe000_0000 + (slot << 15) + offset, size);
  }

  setConfig(offset: number, size: number, value: number, slot = 1): void {
    this.writeMemory(0xe000_0000 + (slot << 15) + offset, size, value);
  }

  readMemory(address: number, size: number): number {
    return this.state.lock.with(() => {
      this.bus.refresh();
      return this.memory.read(address, size);
    });
  }

  writeMemory(address: number, size: number, value: number): void {
    this.state.lock.with(() => {
      this.bus.refresh();
      this.memory.write(address, size, value);
    });
  }

  readPort(port: number, size: number): number {
    return this.state.lock.with(() => {
      this.bus.refresh();
      return this.ports.read(port, size);
    });
  }

  writePort(port: number, size: number, value: number): void {
    this.state.lock.with(() => {
      this.bus.refresh();
      this.ports.write(port, size, value);
    });
  }

  /** Switches decoding of memory and ports, and bus mastering on. */
  enableDecoding(slot = 1): void {
    const { PCI_COMMAND_IO: io, PCI_COMMAND_MEMORY: memory, PCI_COMMAND_MASTER: master } = pci;
    this.setConfig(header.command.offset, 2, io | memory | master, slot);
  }

  /** Address that a BAR holds. */
  bar(index: number, slot = 1): number {
    const value = this.config(header.base_address.offset + 4 * index, 4, slot);
    return (value & (value & 1 ? ~3 : ~0xf)) >>> 0;
  }

  setBar(index: number, value: number, slot = 1): void {
    this.setConfig(header.base_address.offset + 4 * index, 4, value, slot);
  }

  /** The capabilities list, as a guest walks it. */
  capabilities(slot = 1): FoundCapability[] {
    const found: FoundCapability[] = [];
    let offset = this.config(header.capabilities_pointer.offset, 1, slot);
    while (offset !== 0 && found.length < 48) {
      found.push({ id: this.config(offset, 1, slot), offset });
      offset = this.config(offset + 1, 1, slot);
    }
    return found;
  }

  /** Offset in configuration space of the virtio capability of a type. */
  capability(type: number, slot = 1): number {
    const found = this.capabilities(slot).find(
      ({ id, offset }) =>
        id === pci.PCI_CAP_ID_VNDR &&
        this.config(offset + virtio_pci_cap.cfg_type.offset, 1, slot) === type,
    );
    if (found === undefined) throw new Error(`no virtio capability of type ${type}`);
    return found.offset;
  }

  /** Offset in configuration space of the MSI-X capability. */
  msix(slot = 1): number {
    const found = this.capabilities(slot).find(({ id }) => id === pci.PCI_CAP_ID_MSIX);
    if (found === undefined) throw new Error('no MSI-X capability');
    return found.offset;
  }

  setMsixControl(value: number, slot = 1): void {
    this.setConfig(this.msix(slot) + 2, 2, value, slot);
  }

  /** Address of the structure that a virtio capability points to. */
  structure(type: number, slot = 1): number {
    const at = this.capability(type, slot);
    const bar = this.config(at + virtio_pci_cap.bar.offset, 1, slot);
    return this.bar(bar, slot) + this.config(at + virtio_pci_cap.offset.offset, 4, slot);
  }

  /** A field of the common configuration; of a 64-bit field its low half, unless `+ 4` is asked. */
  common(field: CommonField, high = 0): number {
    const { offset, length } = virtio_pci_common_cfg[field];
    const base = this.structure(VIRTIO_PCI_CAP_COMMON_CFG);
    return this.readMemory(base + offset + high, Math.min(length, 4));
  }

  setCommon(field: CommonField, value: number, high = 0): void {
    const { offset, length } = virtio_pci_common_cfg[field];
    const base = this.structure(VIRTIO_PCI_CAP_COMMON_CFG);
    this.writeMemory(base + offset + high, Math.min(length, 4), value);
  }

  get isrAddress(): number {
    return this.structure(VIRTIO_PCI_CAP_ISR_CFG);
  }

  get deviceConfigAddress(): number {
    return this.structure(VIRTIO_PCI_CAP_DEVICE_CFG);
  }

  get notifyAddress(): number {
    return this.structure(VIRTIO_PCI_CAP_NOTIFY_CFG);
  }

  /** Accepts feature bits and sets FEATURES_OK. Returns the status that reads back. */
  negotiate(accept: bigint = this.shape.features): number {
    this.setCommon('device_status', 1);
    this.setCommon('device_status', 3);
    for (const half of [0, 1]) {
      this.setCommon('driver_feature_select', half);
      this.setCommon('driver_feature', Number((accept >> BigInt(32 * half)) & 0xffff_ffffn));
    }
    this.setCommon('device_status', 0xb);
    return this.common('device_status');
  }

  /** Sets a queue up at a place of its own and enables it. */
  enableQueue(queue: number): void {
    this.setCommon('queue_select', queue);
    this.setCommon('queue_desc', 0x1_0000 * (queue + 1));
    this.setCommon('queue_driver', 0x1_0000 * (queue + 1) + 0x8000);
    this.setCommon('queue_device', 0x1_0000 * (queue + 1) + 0xc000);
    this.setCommon('queue_enable', 1);
  }

  /** A driver's whole initialization, with the first `queues` queues. */
  initialize(queues = 1): void {
    this.enableDecoding();
    this.negotiate();
    for (let queue = 0; queue < queues; queue++) this.enableQueue(queue);
    this.setCommon('device_status', 0xf);
  }

  /** Looks as an owner does: what happened since the last time. */
  takeEvents(): string[] {
    this.messages = 0;
    return this.devices.flatMap(({ registers }, index) =>
      changesOf(registers).map((text) => `${this.#slots[index]}: ${text}`),
    );
  }

  #device(slot: number, notify: 'io' | 'memory'): VirtioPci {
    const { shape } = this;
    const queues = shape.queueSizes.length;
    const size = notifyBarSize(queues);
    const device = new VirtioPci(
      this.state,
      this.port,
      this.lines,
      {
        shape,
        pciClass: 0x01_0000,
        slot,
        notify,
        structuresAddress: 0xc000_0000 + slot * 0x10_0000,
        msixAddress: 0xc000_8000 + slot * 0x10_0000,
        notifyAddress: notify === 'io' ? 0x1000 + slot * size : 0xc000_c000 + slot * 0x10_0000,
        vectors: Array.from({ length: queues + 1 }, () => ({
          eventfd: this.#eventfd(),
          gsi: this.#routes++,
        })),
        kicks: Array.from({ length: queues }, () => this.#eventfd()),
        intxEventfd: this.#eventfd(),
      },
      {
        changed: () => {
          this.messages++;
        },
      },
      -1,
    );
    this.bus.add(slot, device.pciFunction);
    return device;
  }

  #eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }
}

/** Takes the changes, as the owner does. */
export function changesOf(registers: DeviceRegisters): string[] {
  const changes = registers.changes.take();
  const events: string[] = [];
  if ((changes & CHANGE_DRIVER_OK) !== 0) events.push('driver ok');
  if ((changes & CHANGE_RESET) !== 0) events.push('reset');
  if ((changes & CHANGE_QUEUES) !== 0) events.push('queues changed');
  if ((changes & CHANGE_INTERRUPTS) !== 0) events.push('interrupts changed');
  if ((changes & CHANGE_CONFIG) !== 0) {
    for (const { offset, length } of registers.config.takeWritten()) {
      const bytes = Array.from({ length }, (_, i) => registers.config.view.getUint8(offset + i));
      events.push(`config ${offset}: ${bytes.map((byte) => byte.toString(16)).join(' ')}`);
    }
  }
  return events;
}
