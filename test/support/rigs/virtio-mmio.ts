/** Virtio devices in memory without a VM: a test plays the guest by addresses. */
import * as mmio from '../../../src/abi/virtio-mmio.ts';
import {
  featureSet,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { AddressSpace } from '../../../src/bus/address-space.ts';
import { InterruptLines } from '../../../src/bus/interrupt-controller.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import type { RegisterObserver } from '../../../src/virtio/register-observer.ts';
import { VIRTIO_MMIO_WINDOW_SIZE, VirtioMmio } from '../../../src/virtio/transport/mmio.ts';
import type { DeviceShape } from '../../../src/virtio/transport/transport.ts';
import { FakeInterrupts } from '../fakes/interrupts.ts';
import { changesOf } from './virtio-pci.ts';

const BASE = 0xf000_0000;
const GSI_BASE = 20;
const GSI_COUNT = 4;

const DEFAULT_SHAPE: DeviceShape = {
  name: 'test0',
  deviceId: 42,
  features: featureSet(0, 5, VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET),
  featureDependencies: [[5, 0]],
  queueSizes: [64, 128, 256],
  config: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
  configWriteMask: Uint8Array.of(0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0),
};

/** What a rig has, where it differs from the default. */
export interface MmioRigOptions extends Partial<DeviceShape> {
  /** Default 1. */
  readonly devices?: number;
  readonly observer?: RegisterObserver;
}

/** Memory with the same device in each of the first windows. */
export class VirtioMmioRig implements Disposable {
  readonly port = new FakeInterrupts();
  readonly state = new SharedState(SharedState.allocate(0x1_0000));
  readonly memory = new AddressSpace();
  readonly shape: DeviceShape;
  readonly devices: readonly VirtioMmio[];
  /** Messages to the owner that it has not answered by `takeEvents`. */
  messages = 0;
  readonly #eventfds: Eventfd[] = [];

  constructor({ devices = 1, observer, ...shape }: MmioRigOptions = {}) {
    this.shape = { ...DEFAULT_SHAPE, ...shape };
    const lines = new InterruptLines(this.state, this.port, GSI_BASE, GSI_COUNT);
    this.devices = Array.from({ length: devices }, (_, index) =>
      this.#device(index, lines, observer),
    );
    for (const device of this.devices) device.reset();
    this.port.take();
  }

  [Symbol.dispose](): void {
    for (const eventfd of this.#eventfds) eventfd.close();
  }

  get device(): VirtioMmio {
    return this.devices[0] as VirtioMmio;
  }

  /** A register, or any place in a window. */
  read(offset: number, size = 4, device = 0): number {
    return this.state.lock.with(() => this.memory.read(address(device, offset), size));
  }

  write(offset: number, value: number, size = 4, device = 0): void {
    this.state.lock.with(() => this.memory.write(address(device, offset), size, value));
  }

  get status(): number {
    return this.read(mmio.VIRTIO_MMIO_STATUS);
  }

  /** Accepts feature bits and sets FEATURES_OK. Returns the status that reads back. */
  negotiate(accept: bigint = this.shape.features): number {
    this.write(mmio.VIRTIO_MMIO_STATUS, 1);
    this.write(mmio.VIRTIO_MMIO_STATUS, 3);
    for (const half of [0, 1]) {
      this.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
      const bits = Number((accept >> BigInt(32 * half)) & 0xffff_ffffn);
      this.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, bits);
    }
    this.write(mmio.VIRTIO_MMIO_STATUS, 0xb);
    return this.status;
  }

  /** Sets a queue up at a place of its own and enables it. */
  enableQueue(queue: number): void {
    this.write(mmio.VIRTIO_MMIO_QUEUE_SEL, queue);
    this.write(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1_0000 * (queue + 1));
    this.write(mmio.VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x1_0000 * (queue + 1) + 0x8000);
    this.write(mmio.VIRTIO_MMIO_QUEUE_USED_LOW, 0x1_0000 * (queue + 1) + 0xc000);
    this.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  }

  /** A driver's whole initialization, with the first `queues` queues. */
  initialize(queues = 1): void {
    this.negotiate();
    for (let queue = 0; queue < queues; queue++) this.enableQueue(queue);
    this.write(mmio.VIRTIO_MMIO_STATUS, 0xf);
  }

  /** Has the owner answer resets while a vCPU waits for them. */
  answer(): void {
    const { registers } = this.device;
    this.port.meanwhile = () => {
      if (registers.isResetting) registers.completeReset();
      for (let queue = 0; queue < registers.queueCount; queue++) {
        if (registers.isQueueResetting(queue)) registers.completeQueueReset(queue);
      }
    };
  }

  /** Looks as an owner does: what happened since the last time. */
  takeEvents(): string[] {
    this.messages = 0;
    return this.devices.flatMap(({ registers }, index) =>
      changesOf(registers).map((text) => `${index}: ${text}`),
    );
  }

  #device(index: number, lines: InterruptLines, observer?: RegisterObserver): VirtioMmio {
    const device = new VirtioMmio(
      this.state,
      this.port,
      lines,
      {
        shape: this.shape,
        index,
        address: address(index, 0),
        kicks: this.shape.queueSizes.map(() => this.#eventfd()),
        lineEventfd: this.#eventfd(),
      },
      {
        ...(observer === undefined ? {} : { observer }),
        changed: () => {
          this.messages++;
        },
      },
    );
    this.memory.add(address(index, 0), VIRTIO_MMIO_WINDOW_SIZE, device.region);
    return device;
  }

  #eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }
}

function address(device: number, offset: number): number {
  return BASE + device * VIRTIO_MMIO_WINDOW_SIZE + offset;
}
