/**
 * Requests a second of CPU time of a device that is defined in a page (bench/devices) beside the built-in one
 * of its kind: the same chains, on the same split virtqueue, without a guest.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { DeviceRig } from '../../src/testing/index.ts';
import { createBlkDevice } from '../../src/virtio/device/blk/blk.ts';
import { createRngDevice } from '../../src/virtio/device/rng.ts';
import type { VirtioDevice } from '../../src/virtio/device.ts';
import { DefinedDevice } from '../../src/virtio/device-sdk/defined-device.ts';
import { featureSet } from '../../src/virtio/features.ts';
import { disk } from '../devices/disk.ts';
import { entropy } from '../devices/entropy.ts';
import type { Measure, Result } from '../harness/measure.ts';
import { type Contestant, measureInRounds, type Sample, type Span } from '../harness/rounds.ts';
import { LeanDriver, type LeanRequest } from '../lean-driver.ts';
import type { Group, GroupContext } from './group.ts';

const DEPTH = 32;
const QUEUE_SIZE = 256;
const DISK_SIZE = 64 * MiB;
const BLOCK = 4096;
const SECTORS_PER_BLOCK = 8;
/** Requests between two looks at the clock. */
const BURST = 2000;

interface Case {
  readonly measure: Measure;
  readonly request: LeanRequest;
  readonly devices: readonly (readonly [name: string, make: () => VirtioDevice])[];
}

const rate = (name: string): Measure => ({ name, unit: 'requests/CPU s', better: 'higher' });

/** The built-in device first. */
function cases(file: string): Case[] {
  const header = new Uint8Array(16);
  const renew = (view: DataView): void =>
    view.setUint32(8, Math.floor((Math.random() * DISK_SIZE) / BLOCK) * SECTORS_PER_BLOCK, true);
  return [
    {
      measure: rate('entropy, 64 bytes'),
      request: { readable: new Uint8Array(0), writable: [64] },
      devices: [
        ['built-in', () => createRngDevice({ name: 'rng', queueSize: QUEUE_SIZE })],
        ['defined', () => new DefinedDevice('entropy', entropy({}))],
      ],
    },
    {
      measure: rate('disk, 4 KiB reads'),
      request: { readable: header, writable: [BLOCK, 1], renew },
      devices: [
        ['built-in', () => createBlkDevice({ name: 'blk', path: file, engine: 'sync' })],
        ['defined', () => new DefinedDevice('disk', disk({ path: file }))],
      ],
    },
  ];
}

/** A device with a driver that keeps it busy. */
class Busy implements Contestant, Disposable {
  readonly name: string;
  readonly reference: boolean;
  readonly #device: VirtioDevice;
  readonly #rig = new DeviceRig();
  readonly #driver: LeanDriver;

  constructor(name: string, device: VirtioDevice, request: LeanRequest) {
    this.name = name;
    this.reference = name === 'built-in';
    this.#device = device;
    const handler = device.createHandler?.();
    if (handler === undefined) throw new Error(`${name} has no data half`);
    this.#rig.start(handler, device.features | featureSet(VIRTIO_F_VERSION_1), [QUEUE_SIZE]);
    this.#driver = new LeanDriver(this.#rig, DEPTH, request);
  }

  /** Requests a second of CPU time: all is done in this thread, and neighbours do not count. */
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
  summary: 'devices defined in a page beside the built-in ones, without a guest',
  guests: false,
  images: () => [],
  async run(context: GroupContext): Promise<void> {
    const folder = mkdtempSync(join(tmpdir(), 'nodevmm-bench-'));
    try {
      const file = join(folder, 'disk');
      writeFileSync(file, Buffer.alloc(DISK_SIZE, 'x'));
      const all = cases(file);
      for (const [index, one] of all.entries()) {
        if (context.skips(one.measure.name)) continue;
        context.report(await compare(one, [index / all.length, (index + 1) / all.length], context));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

async function compare(
  { measure, request, devices }: Case,
  span: Span,
  context: GroupContext,
): Promise<Result[]> {
  const contestants: Busy[] = [];
  try {
    for (const [name, make] of devices) contestants.push(new Busy(name, make(), request));
    const take = async (busy: Busy): Promise<Sample> => ({
      [measure.name]: busy.sample(context.seconds / 4),
    });
    const measures = [measure];
    return await measureInRounds({ group: 'device', measures, contestants, take, span }, context);
  } finally {
    for (const busy of contestants) busy[Symbol.dispose]();
  }
}
