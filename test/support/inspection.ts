/** Snapshots of machines to draw: queues under way in both formats, and none at all. */
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../src/abi/virtio-ring.ts';
import type {
  InspectedDevice,
  InspectedQueue,
  MachineInspection,
} from '../../src/machine/inspect.ts';
import { snapshotRing } from '../../src/virtio/queue/ring-snapshot.ts';
import { QueueFixture } from './queue-fixture.ts';

/** A queue whose device served five chains, has two, and may take one more. */
export function busyQueue(format: 'split' | 'packed', index = 0): InspectedQueue {
  const packed = format === 'packed' ? [VIRTIO_F_RING_PACKED] : [];
  using f = new QueueFixture([VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, ...packed], { size: 8 });
  for (let i = 0; i < 5; i++) {
    f.driver.add({ writable: [1] });
    f.serve();
    f.driver.completed();
  }
  f.driver.add({ readable: [new Uint8Array(16)], writable: [512] });
  f.driver.add({ writable: [77] });
  f.driver.add({ readable: [new Uint8Array(99)] });
  f.take();
  f.take();
  f.device.enableKicks();
  const state = f.device.state();
  const ring = snapshotRing(f.ram.memory, f.driver.config, f.features, state);
  if (typeof ring === 'string') throw new Error(ring);
  return { ...quietQueue(index), enabled: true, format, vector: 1, state, ring };
}

/** One that the driver did not enable. */
export function quietQueue(index = 0): InspectedQueue {
  return {
    index,
    name: `q${index}`,
    size: 8,
    format: 'split',
    enabled: false,
    descriptorArea: '0x0',
    driverArea: '0x0',
    deviceArea: '0x0',
    vector: null,
    held: null,
  };
}

export function aDevice(name: string, queues: readonly InspectedQueue[]): InspectedDevice {
  return {
    name,
    deviceId: 42,
    place: 'PCI 00:02.0',
    datapath: 'userspace',
    thread: 'main',
    status: 15,
    statusBits: ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'],
    features: [
      { bit: 0, name: '<script>', negotiated: true },
      { bit: 1, negotiated: false },
      { bit: 32, name: 'VIRTIO_F_VERSION_1', negotiated: true },
    ],
    config: '00ff10',
    configGeneration: 0,
    queues,
  };
}

/** Two devices with queues in every condition. */
export function anInspection(): MachineInspection {
  return {
    state: 'running',
    devices: [
      aDevice('idle0', [quietQueue(0)]),
      aDevice('busy0', [
        busyQueue('split', 0),
        { ...busyQueue('packed', 1), held: 0 },
        { ...quietQueue(2), enabled: true, problem: 'the used ring at 0x3 is not aligned' },
      ]),
    ],
  };
}
