/** What a transport shows of a device: its own features, and the ring features it was given. */
import * as ring from '../../abi/virtio-ring.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import { featureSet } from '../../virtio/features.ts';
import type { DeviceShape } from '../../virtio/transport/device-contract.ts';
import type { RingOptions } from '../options.ts';

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
 * @param withheld feature bits that are not offered, since nobody could serve them
 */
export function deviceShape(
  device: VirtioDevice,
  options: RingOptions = {},
  withheld = 0n,
): DeviceShape {
  const size = options.queueSize ?? Number.POSITIVE_INFINITY;
  return {
    name: device.name,
    deviceId: device.deviceId,
    features: (device.features | ringFeatures(options)) & ~withheld,
    featureDependencies: device.featureDependencies ?? [],
    queueSizes: device.queues.map(({ maxSize }) => Math.min(maxSize, size)),
    config: device.config,
    configWriteMask: device.configWriteMask ?? new Uint8Array(device.config.length),
    ...(device.emergencyWrite === undefined ? {} : { emergencyWrite: device.emergencyWrite }),
  };
}
