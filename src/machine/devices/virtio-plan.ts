/** What a board must know about a virtio device: what its registers show, and where they are. */
import * as ring from '../../abi/virtio-ring.ts';
import { featureSet } from '../../abi/virtio-ring.ts';
import { VIRTIO_MMIO_BASE } from '../../platform/layout.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import type { RingOptions, TransportName } from '../../virtio/device-type.ts';
import { VIRTIO_MMIO_WINDOW_SIZE } from '../../virtio/transport/mmio.ts';
import {
  notifyBarSize,
  VIRTIO_MSIX_BAR_SIZE,
  VIRTIO_STRUCTURES_BAR_SIZE,
} from '../../virtio/transport/pci.ts';
import type { DeviceShape } from '../../virtio/transport/transport.ts';
import type { DevicePlan } from '../board/board-devices.ts';
import type { DeviceResources } from './resource-allocator.ts';

/** Feature bits that a device's ring options stand for (virtio 1.3 §6). */
export function ringFeatures(options: RingOptions = {}): bigint {
  const bits = [ring.VIRTIO_F_VERSION_1];
  if (options.packed ?? false) bits.push(ring.VIRTIO_F_RING_PACKED);
  if (options.indirect ?? true) bits.push(ring.VIRTIO_F_INDIRECT_DESC);
  if (options.eventIdx ?? true) bits.push(ring.VIRTIO_F_EVENT_IDX);
  if (options.inOrder ?? false) bits.push(ring.VIRTIO_F_IN_ORDER);
  if (options.notificationData ?? false) bits.push(ring.VIRTIO_F_NOTIFICATION_DATA);
  if (options.ringReset ?? true) bits.push(ring.VIRTIO_F_RING_RESET);
  return featureSet(...bits);
}

/**
 * The shape of a device with the given ring options.
 * @param withheld feature bits that are not offered, since no datapath supports them
 * @param required feature bits that the driver has to accept
 */
export function deviceShape(
  device: VirtioDevice,
  options: RingOptions = {},
  withheld = 0n,
  required = 0n,
): DeviceShape {
  const size = options.queueSize ?? Number.POSITIVE_INFINITY;
  return {
    name: device.name,
    deviceId: device.deviceId,
    features: ((device.features | ringFeatures(options)) & ~withheld) | required,
    requiredFeatures: required,
    featureDependencies: device.featureDependencies ?? [],
    queueSizes: device.queues.map(({ maxSize }) => Math.min(maxSize, size)),
    config: device.config,
    configWriteMask: device.configWriteMask ?? new Uint8Array(device.config.length),
    ...(device.emergencyWrite === undefined ? {} : { emergencyWrite: device.emergencyWrite }),
  };
}

/** The plan of a virtio device, for any transport. */
export type VirtioPlan = DevicePlan<'virtio-pci' | 'virtio-mmio'>;

/** Plans a device for its transport. @param notifyPages see `VirtioDevice`; MMIO has one register for all queues */
export function planVirtio(
  transport: TransportName,
  shape: DeviceShape,
  pciClass: number,
  resources: DeviceResources,
  notifyPages?: readonly number[],
): VirtioPlan {
  if (transport === 'mmio') return planMmio(shape, resources);
  return planPci(shape, pciClass, resources, notifyPages);
}

function planPci(
  shape: DeviceShape,
  pciClass: number,
  resources: DeviceResources,
  addresses: readonly number[] | undefined,
): DevicePlan<'virtio-pci'> {
  const { queueSizes } = shape;
  const notify = addresses === undefined ? resources.notify : 'memory';
  const notifySize = notifyBarSize(queueSizes.length, addresses !== undefined);
  const pages = addresses && { addresses, memorySlot: resources.memorySlots(addresses.length) };
  return {
    model: 'virtio-pci',
    plan: {
      shape,
      pciClass,
      slot: resources.slot(),
      notify,
      ...(pages === undefined ? {} : { pages }),
      structuresAddress: resources.memory(VIRTIO_STRUCTURES_BAR_SIZE),
      msixAddress: resources.memory(VIRTIO_MSIX_BAR_SIZE),
      notifyAddress: notify === 'io' ? resources.ports(notifySize) : resources.memory(notifySize),
      // One for the configuration, one for each queue.
      vectors: Array.from({ length: queueSizes.length + 1 }, () => resources.vector()),
      kicks: queueSizes.map(() => resources.eventfd()),
      intxEventfd: resources.eventfd(),
    },
  };
}

function planMmio(shape: DeviceShape, resources: DeviceResources): DevicePlan<'virtio-mmio'> {
  const index = resources.window();
  return {
    model: 'virtio-mmio',
    plan: {
      shape,
      index,
      address: VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_WINDOW_SIZE,
      kicks: shape.queueSizes.map(() => resources.eventfd()),
      lineEventfd: resources.eventfd(),
    },
  };
}
