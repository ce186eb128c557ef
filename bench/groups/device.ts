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
import { type Contestant, measureInRounds } from '../harness/rounds.ts';
import { type Group, type GroupContext, manySamples, partOf } from './group.ts';
import { diskReads, RequestDriver, type RequestShape } from './requests.ts';

const DEPTH = 32;
const QUEUE_SIZE = 256;
const DISK_SIZE = 64 * MiB;
const SAMPLES_PER_ROUND = 4;
/** Requests between two reads of the clock. */
const BURST = 2000;

/** The rows, by name; the built-in device is the reference. */
type Rows = Readonly<Record<string, () => VirtioDevice>>;

const rate = (name: string): Measure => ({ name, unit: 'requests/CPU s', better: 'higher' });

const readOnly = true;

const cases = (path: string): [Measure, RequestShape, Rows][] => [
  [
    rate('entropy, 64 bytes'),
    { readable: [], writable: [64] },
    {
      'built-in': () => createRngDevice({ name: 'rng', queueSize: QUEUE_SIZE }),
      defined: () => new DefinedDevice('entropy', entropy({})),
    },
  ],
  [
    rate('disk, 4 KiB reads'),
    diskReads(DISK_SIZE),
    {
      'built-in': () => createBlkDevice({ name: 'blk', path, readOnly, engine: 'sync' }),
      'built-in, io_uring': () =>
        createBlkDevice({ name: 'blk', path, readOnly, engine: 'io_uring' }),
      defined: () => new DefinedDevice('disk', disk({ path })),
    },
  ],
];

/** A device with a driver that keeps it busy. */
class Busy implements Contestant, Disposable {
  readonly name: string;
  readonly reference: boolean;
  readonly peer?: string;
  readonly #device: VirtioDevice;
  readonly #rig = new DeviceRig();
  readonly #driver: RequestDriver;

  constructor(name: string, device: VirtioDevice, shape: RequestShape) {
    this.name = name;
    this.reference = name === 'built-in';
    if (!this.reference) this.peer = 'built-in';
    this.#device = device;
    const handler = device.createHandler?.();
    if (handler === undefined) throw new Error(`${name} has no data half`);
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
    let requests = 0;
    let elapsed = 0;
    while (elapsed < seconds * 1e6) {
      this.#driver.run(BURST);
      requests += BURST;
      const { user, system } = process.cpuUsage(start);
      elapsed = user + system;
    }
    return (requests * 1e6) / elapsed;
  }

  [Symbol.dispose](): void {
    this.#rig[Symbol.dispose]();
    this.#device.close();
  }
}

export const deviceGroup: Group = {
  name: 'device',
  summary: 'devices defined in a page beside the built-in ones, without a guest (docs/devices.md)',
  guests: false,
  images: () => [],
  async run(context: GroupContext): Promise<void> {
    using folder = new TemporaryFolder('nodevmm-bench-');
    const file = join(folder.path, 'disk');
    writeFileSync(file, Buffer.alloc(DISK_SIZE, 'x'));
    const wanted = cases(file).filter(([{ name }]) => !context.skips(name));
    for (const [index, [measure, shape, rows]] of wanted.entries()) {
      const contestants: Busy[] = [];
      try {
        for (const [name, make] of Object.entries(rows)) {
          contestants.push(new Busy(name, make(), shape));
        }
        const seconds = context.seconds / (2 * SAMPLES_PER_ROUND);
        const take = async (busy: Busy) => ({
          [measure.name]: manySamples(SAMPLES_PER_ROUND, () => busy.sample(seconds)),
        });
        const span = partOf(index, wanted.length);
        const taking = { group: 'device', measures: [measure], contestants, take, span };
        context.report(await measureInRounds(taking, context));
      } finally {
        for (const busy of contestants) busy[Symbol.dispose]();
      }
    }
  },
};
