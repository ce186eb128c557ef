/** What programs ask of the devices and vCPUs of a machine in this process. */
import type { StepQueue } from '../datapath/datapath.ts';
import { UsageError } from '../host/errors.ts';
import type { MachineDeviceOptions } from '../virtio/device-type.ts';
import type { CpuHotplug } from './cpu-hotplug.ts';
import type { MachineDevices } from './devices/machine-devices.ts';
import type { DatapathName } from './devices/queue-service.ts';
import type { VirtioMachineDevice } from './devices/virtio-device.ts';
import type { Hotplug, RemovalOptions } from './hotplug.ts';
import { Machine } from './machine.ts';

/** Whom it is asked of. */
export interface RequestedParts {
  readonly devices: MachineDevices;
  readonly hotplug: Hotplug;
  readonly cpus: CpuHotplug;
  /** Serializes changes of the machine's state. */
  readonly steps: StepQueue;
}

/** The members of a machine for its devices and vCPUs. */
export abstract class DeviceRequests extends Machine {
  protected abstract readonly requested: RequestedParts;

  override get datapaths(): ReadonlyMap<string, DatapathName> {
    return this.requested.devices.datapaths;
  }

  override async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    this.expectLife();
    const found = this.requested.devices.find(device);
    await this.requested.steps.run(() => found.moveTo(datapath));
  }

  override async setLink(device: string, up: boolean): Promise<void> {
    this.requested.devices.setLink(device, up);
  }

  override async resizeDisk(device: string, bytes?: number): Promise<void> {
    this.expectLife();
    await this.requested.steps.run(async () => this.requested.devices.resizeDisk(device, bytes));
  }

  override async addDevice(device: MachineDeviceOptions): Promise<string> {
    this.expectAwake();
    return await this.requested.hotplug.add(device);
  }

  override async removeDevice(device: string, options: RemovalOptions = {}): Promise<void> {
    this.expectAwake();
    await this.requested.hotplug.remove(device, options);
  }

  override async setCpus(
    count: number,
    { timeout }: Pick<RemovalOptions, 'timeout'> = {},
  ): Promise<void> {
    this.expectAwake();
    await this.requested.cpus.set(count, timeout);
  }

  override async holdQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.holdQueue(index));
  }

  override async stepQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.stepQueue(index));
  }

  override async releaseQueue(device: string, queue: string): Promise<void> {
    await this.#withQueue(device, queue, (found, index) => found.releaseQueue(index));
  }

  override async reloadDevice(device: string): Promise<void> {
    await this.requested.devices.find(device).reloadCode();
  }

  async #withQueue(
    device: string,
    queue: string,
    change: (found: VirtioMachineDevice, index: number) => Promise<void>,
  ): Promise<void> {
    this.expectLife();
    const { device: found, index } = this.requested.devices.findQueue(device, queue);
    await this.requested.steps.run(() => change(found, index));
  }

  protected expectLife(): void {
    if (this.state !== 'ended' && this.state !== 'disposed') return;
    throw new UsageError('E_STATE', 'the machine is not running', 'start a new one');
  }

  /** A guest that sleeps would not notice. */
  protected expectAwake(): void {
    this.expectLife();
    if (this.state !== 'suspended') return;
    throw new UsageError('E_STATE', 'the guest sleeps', 'wake it first');
  }
}
