/** The rules of virtio 1.3 that are checked at run time, with their clauses. */
import type { Breach } from '../observation.ts';

/** A rule, and the text of its breach. */
export interface Rule {
  readonly side: Breach['side'];
  readonly rule: string;
  readonly text: string;
}

const driver = (rule: string, text: string, clause: string): Rule => ({
  side: 'driver',
  rule,
  text: `${text} (virtio 1.3 ${clause})`,
});
const device = (rule: string, text: string, clause: string): Rule => ({
  ...driver(rule, text, clause),
  side: 'device',
});

/** What a driver or a device can break. */
export const rules = {
  // Registers.
  statusCleared: driver('status-cleared', 'cleared a bit of the status', '§2.1.1'),
  statusUnknown: driver('status-unknown', 'set a bit of the status that has no meaning', '§2.1'),
  statusOrder: driver('status-order', 'set the status bits out of order', '§3.1.1'),
  earlyDriverOk: driver(
    'early-driver-ok',
    'set DRIVER_OK while FEATURES_OK was not set',
    '§3.1.1 steps 5 to 8',
  ),
  featureNotOffered: driver(
    'feature-not-offered',
    'accepted a feature that was not offered',
    '§2.2.1',
  ),
  featureNeeds: driver(
    'feature-needs',
    'accepted a feature without another one that it requires',
    '§2.2.1',
  ),
  noVersion1: driver('no-version-1', 'did not accept VIRTIO_F_VERSION_1', '§6.1'),
  lateFeatures: driver('late-features', 'accepts features after FEATURES_OK', '§3.1.1 step 5'),
  earlyQueue: driver('early-queue', 'sets up a queue before FEATURES_OK', '§3.1.1 steps 5 to 7'),
  enabledQueue: driver('enabled-queue', 'changes a queue that is enabled', '§4.1.4.3.2, §4.2.2.2'),
  queueSize: driver('queue-size', 'writes an unsupported queue size', '§4.1.4.3.2, §4.2.2.2'),
  noRingReset: driver(
    'no-ring-reset',
    'resets a queue without VIRTIO_F_RING_RESET',
    '§2.6.1, §4.1.4.3.2',
  ),
  readOnly: driver('read-only', 'writes a read-only register', '§4.1.4.3.2, §4.2.2.2'),
  configReadOnly: driver(
    'config-read-only',
    'writes a read-only part of the configuration space',
    "§2.5, and the device's own clause of §5",
  ),
  earlyConfig: driver('early-config', 'writes configuration before FEATURES_OK', '§3.1.1 step 4'),
  earlyKick: driver('early-kick', 'notified a queue before DRIVER_OK', '§3.1.1'),
  // Queues, the driver's side.
  availFlags: driver(
    'avail-flags',
    'has a value in the flags of the available ring that it must not have',
    '§2.7.7.1',
  ),
  eventFlags: driver(
    'event-flags',
    'has a reserved value in the flags of its event suppression',
    '§2.8.14',
  ),
  descriptorFlags: driver(
    'descriptor-flags',
    'sets a flag of a descriptor that has no meaning',
    '§2.7.5, §2.8.13',
  ),
  inOrderNext: driver(
    'in-order-next',
    'chains descriptors out of order, with VIRTIO_F_IN_ORDER',
    '§2.7.5.2',
  ),
  reused: driver(
    'reused',
    'uses a descriptor or buffer id again that the device has',
    '§2.7.13.1, §2.8.21.1',
  ),
  changed: driver('changed', 'changed descriptors that the device has', '§3.3.1, §2.8.16'),
  missingKick: driver(
    'missing-kick',
    'made buffers available and did not send the requested notification',
    '§2.7.10.1, §2.8.21.2',
  ),
  // Queues, the device's side.
  notTaken: device('not-taken', 'used a buffer that it did not take', '§2.7.8, §2.8.22'),
  usedTwice: device('used-twice', 'used a buffer twice', '§2.7.8, §2.8.22'),
  writtenTooMuch: device(
    'written-too-much',
    'reported more bytes written than the buffer has room for',
    '§2.7.8.2, §2.8.4',
  ),
  readableChanged: device(
    'readable-changed',
    'changed a buffer that is read-only for the device',
    '§2.7.5.1, §2.8.15',
  ),
  missingInterrupt: device(
    'missing-interrupt',
    'used buffers and did not send the requested interrupt',
    '§2.7.7.2, §2.8.10',
  ),
  unpublished: device(
    'unpublished',
    'used buffers and did not make that visible to the driver',
    '§2.7.8.2, §2.8.22',
  ),
} as const;
