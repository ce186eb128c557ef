/**
 * Requests per second of CPU time of a device defined in a page (bench/devices) and of the built-in one
 * of its kind: the same chains, on the same split virtqueue, without a guest.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { DeviceRig } from '../../src/testing/index.ts';
import { createBlkDevice } from '../../src/virtio/device/blk/blk.ts';
import { createRngDevice } from '../../src/virtio/device/rng/rng.ts';
import type { VirtioDevice } from '../../src/virtio/device.ts';
import { DefinedDevice } from '../../src/virtio/device-sdk/defined-device.ts';
import { disk } from '../devices/disk.ts';
import { entropy } from '../devices/entropy.ts';
import type { Measure } from '../harness/measure.ts';
import { type Case, type Group, measureCases, type Sampler } from './group.ts';
import { diskReads, RequestDriver, type RequestShape } from './requests.ts';

const DEPTH = 32;
const QUEUE_SIZE = 256;
const DISK_SIZE = 64 * MiB;
const SAMPLES_PER_ROUND = 4;
/** Requests between two reads of the clock. */
const BURST = 2000;

const rate = (name: string): Measure => ({ name, unit: 'requests/CPU s', better: 'higher' });

const readOnly = true;

/** @param path the disk's file */
function casesOf(path: string): Case[] {
  const entropyShape = { readable: [], writable: [64] };
  const diskShape = diskReads(DISK_SIZE);
  const blk = (engine: 'sync' | 'io_uring') => () =>
    new Busy(createBlkDevice({ name: 'blk', path, readOnly, engine }), diskShape);
  return [
    {
      measure: rate('entropy, 64 bytes'),
      peer: 'built-in',
      rows: {
        'built-in': () =>
          new Busy(createRngDevice({ name: 'rng', queueSize: QUEUE_SIZE }), entropyShape),
        defined: () => new Busy(new DefinedDevice('entropy', entropy({})), entropyShape),
      },
    },
    {
      measure: rate('disk, 4 KiB reads'),
      peer: 'built-in',
      rows: {
        'built-in': blk('sync'),
        'built-in, io_uring': blk('io_uring'),
        defined: () => new Busy(new DefinedDevice('disk', disk({ path })), diskShape),
      },
    },
  ];
}

/** A device with a driver that keeps it busy. */
class Busy implements Sampler {
  readonly #device: VirtioDevice;
  readonly #rig = new DeviceRig();
  readonly #driver: RequestDriver;

  constructor(device: VirtioDevice, shape: RequestShape) {
    this.#device = device;
    const handler = device.createHandler?.();
    if (handler === undefined) throw new Error('the device has no data half');
    this.#rig.start(handler, device.features | featureSet(VIRTIO_F_VERSION_1), [QUEUE_SIZE]);
    const port = {
      ...{ queue: this.#rig.queue(0), heap: this.#rig.heap },
      notify: () => this.#rig.notify(0),
      wait: () => void this.#rig.pump(1000),
    };
    this.#driver = new RequestDriver(port, DEPTH, shape);
  }

  /** Requests per second of CPU time: all work is in this thread, and neighbors do not count. */
  sample(seconds: number): number {
    const start = process.cpuUsage();
    const enough = (seconds / (2 * SAMPLES_PER_ROUND)) * 1e6;
    let requests = 0;
    let elapsed = 0;
    while (elapsed < enough) {
      this.#driver.run(BURST);
      requests += BURST;
      const { user, system } = process.cpuUsage(start);
      elapsed = user + system;
    }
    return (requests * 1e6) / elapsed;
  }

  close(): void {
    this.#rig[Symbol.dispose]();
    this.#device.close();
  }
}

export const deviceGroup: Group = {
  name: 'device',
  summary: 'devices defined in a page beside the built-in ones, without a guest (docs/devices.md)',
  async run(context) {
    using folder = new TemporaryFolder('nodevmm-bench-');
    const file = join(folder.path, 'disk');
    writeFileSync(file, Buffer.alloc(DISK_SIZE, 'x'));
    await measureCases('device', casesOf(file), context, SAMPLES_PER_ROUND);
  },
};
