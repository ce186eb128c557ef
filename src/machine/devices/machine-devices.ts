/** A machine's devices, and what can be asked of them by name. */
import { UsageError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { isNetDevice } from '../../virtio/device/net/net.ts';
import { type InspectedDevice, type InspectFilter, inspectDevice } from '../inspect.ts';
import type { DatapathName } from './datapath-choice.ts';
import type { DeviceOwner } from './device-owner.ts';
import type { PluggedDevice } from './plugged-device.ts';
import type { GateOrder } from './queue-holds.ts';

/** All of them, in the order of their places. */
export class MachineDevices {
  readonly all: readonly PluggedDevice[];

  constructor(all: readonly PluggedDevice[]) {
    this.all = all;
  }

  /** Where each virtio device's queues are served, by the device's name. */
  get datapaths(): ReadonlyMap<string, DatapathName> {
    return new Map(this.#virtio().map((owner) => [owner.device.name, owner.datapath]));
  }

  /** The owner of a virtio device. @throws UsageError when there is none of that name */
  find(device: string): DeviceOwner {
    const found = this.#virtio().find((owner) => owner.device.name === device);
    if (found !== undefined) return found;
    const names = [...this.datapaths.keys()].join(', ');
    throw new UsageError(
      'E_DEVICE',
      `this machine has no virtio device ${device}; it has ${names}`,
    );
  }

  /** @throws UsageError when there is no such network interface */
  setLink(device: string, up: boolean): void {
    const found = this.find(device).device;
    if (!isNetDevice(found)) {
      throw new UsageError('E_DEVICE', `${device} is no network interface and has no link`);
    }
    found.setLink(up);
  }

  /** @throws UsageError when the device has no file, or what that says now cannot be */
  async reload(device: string): Promise<void> {
    const owner = this.find(device);
    const plugged = this.all.find((one) => one.owner === owner);
    const code = plugged?.kind === 'virtio' ? plugged.code : undefined;
    if (code === undefined) throw new UsageError('E_DEVICE', `${device} is not made from a file`);
    await code.reload();
  }

  /** @throws UsageError when there is no such queue, or the host kernel serves it */
  async gate(device: string, queue: string, order: GateOrder): Promise<void> {
    const owner = this.find(device);
    const { queues } = owner.device;
    const index = queues.findIndex(({ name }, at) => queue === name || queue === String(at));
    if (index < 0) {
      const names = queues.map(({ name }) => name).join(', ');
      throw new UsageError('E_QUEUE', `${device} has no queue ${queue}; it has ${names}`);
    }
    await owner.gate(index, order);
  }

  inspect(memory: GuestMemory, filter: InspectFilter): Promise<InspectedDevice[]> {
    if (filter.device !== undefined && filter.device !== '') this.find(filter.device);
    return Promise.all(this.#virtio().map((owner) => inspectDevice(owner, memory, filter)));
  }

  #virtio(): DeviceOwner[] {
    return this.all.flatMap(({ kind, owner }) => (kind === 'virtio' ? [owner] : []));
  }
}
