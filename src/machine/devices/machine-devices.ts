/** A machine's devices: how they are made from its options, and requests to them by name. */
import { VIRTIO_ID_BLOCK } from '../../abi/virtio-blk.ts';
import { AsyncCleanupStack } from '../../host/cleanup-stack.ts';
import { UsageError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { E1000Device } from '../../nic/device.ts';
import { VhostVdpaDevice } from '../../vdpa/vhost-vdpa-device.ts';
import { VfioDevice } from '../../vfio/device.ts';
import { DmaSpaces } from '../../vfio/dma-spaces.ts';
import type { InspectedFunction } from '../../vfio/inspected-function.ts';
import { checkLockedMemory } from '../../vfio/locked-memory.ts';
import { vfioType } from '../../vfio/vfio-type.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import { isResizableDisk } from '../../virtio/device/blk/blk.ts';
import { iommuType } from '../../virtio/device/iommu/iommu.ts';
import { isNetDevice } from '../../virtio/device/net/net.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import type { Connect } from '../../virtio/frontend-device.ts';
import { WatchdogDevice } from '../../watchdog/watchdog-type.ts';
import { type InspectedDevice, type InspectFilter, inspectDevice } from '../inspect.ts';
import type { ResolvedDevice } from '../resolve-options.ts';
import { DeviceCode } from '../user-devices/device-code.ts';
import type { MadeDevice } from './device-types.ts';
import { E1000MachineDevice } from './e1000-device.ts';
import type { MachineDevice } from './machine-device.ts';
import type { DatapathName } from './queue-service.ts';
import { VfioMachineDevice } from './vfio-device.ts';
import { VirtioMachineDevice } from './virtio-device.ts';
import { WatchdogMachineDevice } from './watchdog-device.ts';

/** All of them, in the order of their slots at the next power-on. */
export class MachineDevices {
  readonly #all: MachineDevice[];
  /** Each keeps its number; those of removed ones are used again. */
  readonly #numbers = new Map<MachineDevice, number>();

  constructor(all: readonly MachineDevice[]) {
    this.#all = [...all];
    for (const [number, device] of all.entries()) this.#numbers.set(device, number);
  }

  get all(): readonly MachineDevice[] {
    return this.#all;
  }

  /** A device's number, by which threads and the trace call it. */
  numberOf(device: MachineDevice): number {
    return this.#numbers.get(device) ?? -1;
  }

  numbered(number: number): MachineDevice | undefined {
    return this.#all.find((device) => this.numberOf(device) === number);
  }

  /** @returns its number */
  add(device: MachineDevice): number {
    const used = new Set(this.#numbers.values());
    let number = 0;
    while (used.has(number)) number++;
    this.#numbers.set(device, number);
    this.#all.push(device);
    return number;
  }

  remove(device: MachineDevice): void {
    this.#numbers.delete(device);
    const index = this.#all.indexOf(device);
    if (index >= 0) this.#all.splice(index, 1);
  }

  /** Which datapath serves each virtio device, by the device's name. */
  get datapaths(): ReadonlyMap<string, DatapathName> {
    return new Map(this.#virtio().map(({ name, datapath }) => [name, datapath]));
  }

  /** A virtio device. @throws UsageError when there is none of that name */
  find(name: string): VirtioMachineDevice {
    const found = this.#virtio().find((device) => device.name === name);
    if (found !== undefined) return found;
    const names = [...this.datapaths.keys()].join(', ');
    throw new UsageError('E_DEVICE', `this machine has no virtio device ${name}, only ${names}`);
  }

  /** The only virtio device of a class, if there is one. */
  ofClass<T extends VirtioDevice>(kind: new (...args: never[]) => T): T | undefined {
    return this.allOfClass(kind)[0];
  }

  allOfClass<T extends VirtioDevice>(kind: new (...args: never[]) => T): T[] {
    return this.#virtio().flatMap(({ device }) => (device instanceof kind ? [device] : []));
  }

  /** A virtio device's queue by name or index. @throws UsageError when there is none */
  findQueue(name: string, queue: string): { device: VirtioMachineDevice; index: number } {
    const device = this.find(name);
    const names = device.queueNames;
    const index = names.findIndex((known, at) => queue === known || queue === String(at));
    if (index >= 0) return { device, index };
    throw new UsageError('E_QUEUE', `${name} has no queue ${queue}, only ${names.join(', ')}`);
  }

  /** @throws UsageError when there is no such network interface */
  setLink(name: string, up: boolean): void {
    const { device } = this.find(name);
    if (!isNetDevice(device)) {
      throw new UsageError('E_DEVICE', `${name} is not a network interface and has no link`);
    }
    device.setLink(up);
  }

  /** @throws UsageError when it is no disk of this process, or cannot have that size; HostError */
  resizeDisk(name: string, bytes?: number): void {
    const { device } = this.find(name);
    if (isResizableDisk(device)) {
      device.resize(bytes);
      return;
    }
    const isDisk = device.deviceId === VIRTIO_ID_BLOCK;
    throw new UsageError(
      'E_DEVICE',
      isDisk ? `${name} has the size that its backend gives it` : `${name} is not a disk`,
      isDisk ? 'resize it there: the guest is notified' : undefined,
    );
  }

  inspect(memory: GuestMemory, filter: InspectFilter): Promise<InspectedDevice[]> {
    const { device: wanted } = filter;
    const isFunction = this.#functions().some(({ name }) => name === wanted);
    if (wanted !== undefined && wanted !== '' && !isFunction) this.find(wanted);
    return Promise.all(this.#virtio().map((device) => inspectDevice(device, memory, filter)));
  }

  /** The functions of the host among them. */
  inspectFunctions(): InspectedFunction[] {
    return this.#functions().map((device) => device.inspect());
  }

  #functions(): VfioMachineDevice[] {
    return this.#all.filter((device) => device instanceof VfioMachineDevice);
  }

  #virtio(): VirtioMachineDevice[] {
    return this.#all.filter((device) => device instanceof VirtioMachineDevice);
  }
}

/**
 * @param memory bytes of the guest's RAM
 * @param made gets the devices, including those made before one that fails; the caller closes them
 * @param log receives lines for the user
 * @throws UsageError or HostError when a file, tap or backend is not available
 */
export async function createDevices(
  wanted: readonly ResolvedDevice[],
  memory: number,
  made: MachineDevice[],
  log: (text: string) => void,
): Promise<void> {
  // Before a driver of the host loses its device in vain.
  const hasIommu = wanted.some(({ type }) => type === iommuType);
  const isBehind = ({ iommu }: ResolvedDevice): boolean => hasIommu && iommu !== 'off';
  const functions = wanted.filter(({ type }) => type.name === vfioType.name);
  // Each behind the IOMMU has pages of its own locked, the others the same.
  const behind = functions.filter(isBehind).length;
  const locking = behind + (functions.length > behind ? 1 : 0);
  if (locking > 0) checkLockedMemory(locking * memory);
  const spaces = new DmaSpaces();
  for (const asked of wanted) {
    const device = await createDevice(asked);
    if (device instanceof E1000Device) made.push(new E1000MachineDevice(device, log));
    else if (device instanceof WatchdogDevice) made.push(new WatchdogMachineDevice(device, log));
    else if (device instanceof VfioDevice)
      made.push(openVfio(device, spaces, isBehind(asked), log));
    else if (device instanceof DeviceCode) {
      made.push(new VirtioMachineDevice(device.device, { ...asked, code: device }, log));
    } else made.push(new VirtioMachineDevice(device, asked, log));
  }
}

function openVfio(
  device: VfioDevice,
  spaces: DmaSpaces,
  behind: boolean,
  log: (text: string) => void,
): VfioMachineDevice {
  try {
    return new VfioMachineDevice(device, spaces, behind, log);
  } catch (error) {
    device.close();
    throw error;
  }
}

/** Where queues are served elsewhere. */
const CONNECT: Connect = {
  vhostUser: VhostUserDevice.open,
  vdpa: (name, address, kindOf) => VhostVdpaDevice.open(name, address, kindOf),
};

/** Makes one. @throws UsageError or HostError */
export async function createDevice(asked: ResolvedDevice): Promise<MadeDevice> {
  const { backend, options, context, ring } = asked;
  const { queueSize } = ring;
  // A disk bounds seg_max by it: a chain may not be longer than its queue (§2.7.5.3.1).
  const sized = queueSize === undefined ? context : { ...context, queueSize };
  return await backend.create(options, sized, CONNECT);
}

/** In reverse order; a failure does not keep the others from closing. */
export async function closeAll(devices: readonly MachineDevice[]): Promise<void> {
  await using stack = new AsyncCleanupStack();
  for (const device of devices) stack.defer(() => device.close());
}
