/** A snapshot of a machine's devices, for display. */

import { deviceTypeName, featureName, statusNames } from '../abi/virtio-names.ts';
import { VIRTIO_MSI_NO_VECTOR } from '../abi/virtio-pci.ts';
import { hasFeature, VIRTIO_F_RING_PACKED } from '../abi/virtio-ring.ts';
import { inTime } from '../host/deadline.ts';
import { threadState } from '../host/threads.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { InspectedFunction } from '../vfio/inspected-function.ts';
import type { BackendFacts } from '../virtio/device.ts';
import type { PollMode } from '../virtio/device-type.ts';
import { type RingSnapshot, snapshotRing } from '../virtio/queue/ring-snapshot.ts';
import type { QueueConfig, VringState } from '../virtio/queue/virtqueue.ts';
import {
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_ENABLE,
  QUEUE_SIZE,
  QUEUE_VECTOR,
} from '../virtio/transport/device-registers.ts';
import type { VirtioTransport } from '../virtio/transport/transport.ts';
import type { DatapathName } from './devices/queue-service.ts';
import type { VirtioMachineDevice } from './devices/virtio-device.ts';
import type { InspectedIommu } from './inspect-iommu.ts';

/** A feature bit that the device offers. */
export interface InspectedFeature {
  /** Its number. */
  readonly bit: number;
  /** Absent for one of the device's own that is unnamed. */
  readonly name?: string;
  /** The driver accepted it. */
  readonly negotiated: boolean;
}

/** A virtqueue. Addresses are guest physical, hexadecimal. */
export interface InspectedQueue {
  /** Index in the device. */
  readonly index: number;
  /** Its name in the specification or by the device's author, e.g. `transmitq1`. */
  readonly name: string;
  /** Entries, as the driver set the size. */
  readonly size: number;
  /** VIRTIO_F_RING_PACKED, once it is negotiated. */
  readonly format: 'split' | 'packed';
  /** The driver enabled it. */
  readonly enabled: boolean;
  /** Descriptor table or ring. */
  readonly descriptorArea: string;
  /** Available ring or driver event suppression. */
  readonly driverArea: string;
  /** Used ring or device event suppression. */
  readonly deviceArea: string;
  /** MSI-X vector; null when the driver chose none. */
  readonly vector: number | null;
  /** Chains that the device may still take while the queue is held; null when it is not held. */
  readonly held: number | null;
  /** The device's position, when its datapath knows it. */
  readonly state?: VringState;
  /** The contents of its areas; absent when it is not enabled, or they were not requested. */
  readonly ring?: RingSnapshot;
  /** Why its areas cannot be read. */
  readonly problem?: string;
}

/** Where a driver notifies the first queue. */
export interface InspectedNotify {
  readonly space: 'port' | 'memory';
  /** Hexadecimal. */
  readonly address: string;
  /** `ioeventfd`: KVM signals the queue's eventfd. `exit`: a vCPU thread does. `hardware`: it is the device's own register. */
  readonly by: 'ioeventfd' | 'exit' | 'hardware';
}

/** A virtio device. */
export interface InspectedDevice {
  /** e.g. `net0`. */
  readonly name: string;
  /** Device ID, virtio 1.3 §5. */
  readonly deviceId: number;
  /** The device type that the ID denotes, when the specification defines it. */
  readonly type?: string;
  /** How the guest finds it, e.g. `PCI 00:03.0`; absent while no guest runs. */
  readonly place?: string;
  /** Where its queues are served. */
  readonly datapath: DatapathName;
  /** In which thread, when that is this process. */
  readonly thread: 'main' | 'worker';
  /** Whether that thread, when it is a worker, runs or is blocked in a system call. */
  readonly threadState?: 'running' | 'blocked';
  /** What is behind it. Absent: nothing in particular. */
  readonly backend?: BackendFacts;
  /** Where its driver can notify queues now, the preferred place first; none while no guest runs. */
  readonly notify: readonly InspectedNotify[];
  /**
   * How it interrupts: MSI-X messages, its INTx pin, or the line of a device that is not on PCI. Absent while no
   * guest runs.
   */
  readonly interrupt?: 'msi-x' | 'intx' | 'line';
  /** How that thread waits for the driver, when it is this process's. */
  readonly poll: PollMode;
  /** Device status (§2.1). */
  readonly status: number;
  /** The names of its bits. */
  readonly statusBits: readonly string[];
  /** What it offers, by bit number. */
  readonly features: readonly InspectedFeature[];
  /** Configuration space, two hexadecimal digits per byte. */
  readonly config: string;
  /** Config generation (§4.1.4.3.1). */
  readonly configGeneration: number;
  /** All that the device has. */
  readonly queues: readonly InspectedQueue[];
}

/** A machine. */
export interface MachineInspection {
  /** As `VirtualMachine.state`. */
  readonly state: string;
  /** The virtio devices. */
  readonly devices: readonly InspectedDevice[];
  /** PCI functions of the host (docs/vfio.md). */
  readonly functions: readonly InspectedFunction[];
  /** What devices behind the IOMMU reach; absent without one. */
  readonly iommu?: InspectedIommu;
}

/** Which rings to show; absent means all. All devices and queues are listed in any case. */
export interface InspectFilter {
  /** Device name; no device has the empty one. */
  readonly device?: string;
  /** Queue name or index. */
  readonly queue?: string;
}

/** A worker that is stuck in a device's code does not block the snapshot. */
const STATES_MS = 250;

/** Takes a snapshot of a device. Whatever its driver wrote is shown, and none of it makes this fail. */
export async function inspectDevice(
  machineDevice: VirtioMachineDevice,
  memory: GuestMemory,
  filter: InspectFilter,
): Promise<InspectedDevice> {
  const { device, datapath, slot } = machineDevice;
  // Before they are asked for, which wakes it.
  const doing = machineDevice.threadId > 0 ? threadState(machineDevice.threadId) : undefined;
  const states = await statesOf(machineDevice);
  const seen = slot?.state.lock.with(() => readRegisters(slot.transport));
  const packed = hasFeature(seen?.accepted ?? 0n, VIRTIO_F_RING_PACKED);
  const type = deviceTypeName(device.deviceId);
  const addresses = machineDevice.translated ?? memory;
  return {
    name: device.name,
    deviceId: device.deviceId,
    ...(type === undefined ? {} : { type }),
    ...(slot === undefined ? {} : { place: slot.place }),
    datapath,
    thread: device.thread.kind,
    ...(doing === undefined ? {} : { threadState: doing }),
    ...(device.backend === undefined ? {} : { backend: { ...device.backend } }),
    notify: seen?.notify ?? [],
    ...(seen === undefined ? {} : { interrupt: seen.interrupt }),
    poll: machineDevice.poll,
    status: seen?.status ?? 0,
    statusBits: statusNames(seen?.status ?? 0),
    features: inspectFeatures(
      machineDevice,
      seen?.offered ?? device.features,
      seen?.accepted ?? 0n,
    ),
    config: Buffer.from(machineDevice.readConfig()).toString('hex'),
    configGeneration: seen?.generation ?? 0,
    queues: device.queues.map(({ name, maxSize }, index): InspectedQueue => {
      const registers = seen?.queues[index];
      const state = states.get(index);
      const shown = registers?.enabled === true && isAskedFor(filter, device.name, name, index);
      const ring = shown
        ? snapshotRing(addresses, configOf(index, registers), seen?.accepted ?? 0n, state)
        : undefined;
      return {
        index,
        name,
        size: registers?.size ?? maxSize,
        format: packed ? 'packed' : 'split',
        enabled: registers?.enabled ?? false,
        descriptorArea: hex(registers?.descriptorArea),
        driverArea: hex(registers?.driverArea),
        deviceArea: hex(registers?.deviceArea),
        vector: registers?.vector ?? null,
        held: machineDevice.credits(index, state) ?? null,
        ...(state === undefined ? {} : { state }),
        ...(typeof ring === 'string' ? { problem: ring } : {}),
        ...(typeof ring === 'object' ? { ring } : {}),
      };
    }),
  };
}

/** @returns the state of each queue whose datapath knows it */
async function statesOf(
  machineDevice: VirtioMachineDevice,
): Promise<ReadonlyMap<number, VringState>> {
  // A worker that crashes meanwhile has no states.
  const states = machineDevice.states().catch(() => new Map<number, VringState>());
  return await inTime(states, STATES_MS, () => new Map());
}

interface QueueRegisters {
  readonly size: number;
  readonly enabled: boolean;
  readonly vector: number | null;
  readonly descriptorArea: bigint;
  readonly driverArea: bigint;
  readonly deviceArea: bigint;
}

/** Everything in the registers; called with the lock held. */
function readRegisters({ registers, notifyPlaces, interruptKind }: VirtioTransport) {
  const address = (queue: number, word: number): bigint =>
    (BigInt(registers.queueWord(queue, word + 1) >>> 0) << 32n) |
    BigInt(registers.queueWord(queue, word) >>> 0);
  const queues = Array.from({ length: registers.queueCount }, (_, queue): QueueRegisters => {
    const vector = registers.queueWord(queue, QUEUE_VECTOR);
    return {
      size: registers.queueWord(queue, QUEUE_SIZE),
      enabled: registers.queueWord(queue, QUEUE_ENABLE) === 1,
      vector: vector === VIRTIO_MSI_NO_VECTOR ? null : vector,
      descriptorArea: address(queue, QUEUE_DESC),
      driverArea: address(queue, QUEUE_DRIVER),
      deviceArea: address(queue, QUEUE_DEVICE),
    };
  });
  return {
    notify: notifyPlaces.map((place) => ({ ...place, address: `0x${place.address.toString(16)}` })),
    interrupt: interruptKind,
    status: registers.status,
    offered: registers.shape.features,
    accepted: registers.driverFeatures,
    generation: registers.config.generation,
    queues,
  };
}

function inspectFeatures(
  { device }: VirtioMachineDevice,
  offered: bigint,
  accepted: bigint,
): InspectedFeature[] {
  const bits = Array.from({ length: 64 }, (_, bit) => bit);
  return bits
    .filter((bit) => hasFeature(offered | accepted, bit))
    .map((bit) => {
      const name = device.featureNames?.[bit] ?? featureName(device.deviceId, bit);
      return {
        bit,
        ...(name === undefined ? {} : { name }),
        negotiated: hasFeature(accepted, bit),
      };
    });
}

function configOf(index: number, registers: QueueRegisters): QueueConfig {
  return {
    index,
    size: registers.size,
    descriptorArea: Number(registers.descriptorArea),
    driverArea: Number(registers.driverArea),
    deviceArea: Number(registers.deviceArea),
    kickFd: -1,
    callFd: -1,
  };
}

function isAskedFor(filter: InspectFilter, device: string, queue: string, index: number): boolean {
  if (filter.device !== undefined && filter.device !== device) return false;
  return filter.queue === undefined || filter.queue === queue || filter.queue === String(index);
}

function hex(address = 0n): string {
  return `0x${address.toString(16)}`;
}
