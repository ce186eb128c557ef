/** Where a virtio device is plugged in, for one power cycle: the operations on its registers. */
import { DEVICE_NEEDS_RESET, DRIVER_OK } from '../../abi/virtio-pci.ts';
import type { Activation } from '../../datapath/datapath.ts';
import { drainEventfd } from '../../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { QueueConfig } from '../../virtio/queue/virtqueue.ts';
import type { VirtioTransport } from '../../virtio/transport/transport.ts';

/** All of them run under the lock that the vCPUs take. */
export class DeviceSlot {
  /** Where the guest finds it, such as `PCI 00:03.0`. */
  readonly place: string;
  readonly state: SharedState;
  readonly transport: VirtioTransport;
  readonly memory: GuestMemoryShare;
  readonly #line: LoopWatch;

  constructor(
    place: string,
    state: SharedState,
    transport: VirtioTransport,
    memory: GuestMemoryShare,
  ) {
    this.place = place;
    this.state = state;
    this.transport = transport;
    this.memory = memory;
    const { lineEventfd } = transport;
    this.#line = new LoopWatch(lineEventfd, LOOP_READABLE, () => {
      if (!drainEventfd(lineEventfd)) return;
      state.lock.with(() => transport.assertQueueInterrupt());
    });
  }

  /** True while the driver has to reset the device. */
  get needsReset(): boolean {
    return (this.transport.registers.status & DEVICE_NEEDS_RESET) !== 0;
  }

  /** The queues as the registers describe them now. */
  activation(): Activation {
    const { transport, memory } = this;
    const { registers } = transport;
    return this.state.lock.with(() => {
      const queues: QueueConfig[] = [];
      transport.kicks.forEach((kick, queue) => {
        const config = registers.queueConfig(queue, kick, transport.callEventfd(queue));
        if (config !== undefined) queues.push(config);
      });
      return { memory, features: registers.driverFeatures, queues };
    });
  }

  /** As `DeviceHost.updateConfig`. @param kept gets the fields that the driver cannot write */
  updateConfig(change: (config: DataView) => void, kept: Uint8Array, quiet = false): void {
    const { registers } = this.transport;
    this.state.lock.with(() => {
      change(registers.config.view);
      registers.config.changed();
      kept.forEach((_, at) => {
        const writable = registers.shape.configWriteMask[at] ?? 0;
        if (writable === 0) kept[at] = registers.config.view.getUint8(at);
      });
      if (!quiet && (registers.status & DRIVER_OK) !== 0) this.transport.notifyConfigChange();
    });
  }

  /** As `DeviceHost.readConfig`. */
  readConfig(): Uint8Array {
    return this.state.lock.with(() => {
      const { buffer, byteOffset, byteLength } = this.transport.registers.config.view;
      return Uint8Array.from(new Uint8Array(buffer, byteOffset, byteLength));
    });
  }

  /** Asks the driver to reset the device (DEVICE_NEEDS_RESET, virtio 1.3 §2.1.2). */
  askForReset(): void {
    const { registers } = this.transport;
    this.state.lock.with(() => {
      // Without DRIVER_OK nothing is served: the driver reads the status until it is 0.
      if ((registers.status & DRIVER_OK) === 0) return;
      if (registers.setNeedsReset()) this.transport.notifyConfigChange();
    });
  }

  /** The driver did not reset the device, which continues nonetheless. */
  clearNeedsReset(): void {
    this.state.lock.with(() => this.transport.registers.clearNeedsReset());
  }

  close(): void {
    this.#line.close();
  }
}
