/** A disk served to a kernel's VDUSE, by its messages: features, rings, memory, state, reset. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { VDUSE_UPDATE_IOTLB } from '../../../src/abi/vduse.ts';
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH } from '../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  hasFeature,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { signalEventfd } from '../../../src/host/fd.ts';
import { deviceShape } from '../../../src/machine/devices/virtio-plan.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { VduseBackend } from '../../../src/vduse/vduse-backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { createBlkDevice } from '../../../src/virtio/device/blk/blk.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import { until } from '../../support/fakes/machine.ts';
import { FakeVduse } from '../../support/fakes/vduse.ts';
import { blkHeader } from '../../support/rigs/blk-driver.ts';
import { testFolder } from '../../support/rigs/files.ts';

const FEATURES = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_BLK_F_FLUSH);
const DRIVER_OK = 15;
const RAM = 64 * MiB;
const folder = testFolder(t);
const path = join(folder, 'disk.raw');

/** A disk of 1 MiB, its kernel, and a driver's queue in RAM. */
class Rig implements AsyncDisposable {
  readonly kernel = new FakeVduse();
  readonly ram = new Ram(RAM, 'memfd');
  readonly heap = new GuestHeap(this.ram.memory, 0x1000, RAM);
  readonly log: string[] = [];
  readonly queue: DriverQueue;
  readonly device: BackendDevice;
  readonly backend: VduseBackend;

  constructor(
    kernel: Partial<FakeVduse> = {},
    { queueSize = 16, features: more = 0n, size = MiB } = {},
  ) {
    const negotiated = FEATURES | more;
    this.queue = createDriverQueue(this.heap, { size: queueSize, features: negotiated });
    writeFileSync(path, Buffer.alloc(size, 'sector'));
    Object.assign(this.kernel, kernel);
    const disk = createBlkDevice({ name: 'blk0', path });
    const { features, queueSizes } = deviceShape(disk, { packed: true, ringReset: false });
    this.device = new BackendDevice(disk, features, queueSizes, (text) => this.log.push(text));
    this.backend = new VduseBackend('disk0', this.device, { kernel: this.kernel, folder });
    this.kernel.ram = { fd: this.ram.memory.share.fd, size: RAM };
    this.kernel.negotiated = negotiated;
    this.kernel.queues.push(this.queue.config);
  }

  /** Reads the first sector. @returns its bytes */
  async read(): Promise<string> {
    const before = this.kernel.interrupts.length;
    this.queue.add({ readable: [blkHeader(0, 0)], writable: [512, 1] });
    if (this.queue.kick()) signalEventfd(this.kernel.kicks.get(0) ?? -1);
    await until(() => this.kernel.interrupts.length > before);
    const [done] = this.queue.completed();
    return Buffer.from(done?.writable.subarray(0, 6) ?? []).toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend.close();
    await this.device.close();
    this.ram.close();
    this.kernel.close();
  }
}

t.test('the device that the kernel gets', async (t) => {
  await using rig = new Rig();
  const { name, features, queues, config } = rig.kernel.created;
  t.equal(name, 'disk0');
  t.equal(queues, 1);
  t.ok(hasFeature(features, VIRTIO_F_ACCESS_PLATFORM), 'which the kernel demands');
  t.notOk(hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE), 'which it refuses');
  t.equal(new DataView(config.buffer).getBigUint64(0, true), BigInt(MiB / 512), 'its capacity');
  t.same(rig.kernel.take(), ['VDUSE_SET_API_VERSION', 'VDUSE_CREATE_DEV', 'VDUSE_VQ_SETUP']);
});

t.test('requests, from DRIVER_OK to the reset', async (t) => {
  await using rig = new Rig();
  t.match(await rig.kernel.status(11), { ok: true });
  t.match(await rig.kernel.status(DRIVER_OK), { ok: true });
  t.equal(await rig.read(), 'sector');
  t.match(await rig.kernel.state(0), { ok: true, words: [1] }, 'one chain was taken');
  t.match(await rig.kernel.status(DRIVER_OK), { ok: true });
  t.match(await rig.kernel.ask(VDUSE_UPDATE_IOTLB), { ok: true });
  t.equal(await rig.read(), 'sector', 'in memory that was mapped again, from where it stopped');
  t.match(await rig.kernel.status(0), { ok: true });
  t.match(await rig.kernel.state(0), { words: [0] }, 'a reset forgets it');
  t.same(rig.log, []);
});

t.test('DRIVER_OK is answered before the datapath starts', async (t) => {
  await using rig = new Rig();
  const { datapath } = rig.device;
  const start = datapath.start.bind(datapath);
  // As a tap, whose thread waits for a lock that the driver's probe holds until it has the answer.
  const answer = rig.kernel.status(DRIVER_OK);
  datapath.start = async (activation) => {
    await answer;
    await start(activation);
  };
  t.match(await answer, { ok: true });
  t.equal(await rig.read(), 'sector');
});

t.test('interrupts that the kernel refuses are repeated, until the reset', async (t) => {
  await using rig = new Rig();
  await rig.kernel.status(DRIVER_OK);
  rig.kernel.driverOk = false;
  const read = rig.read();
  await until(() => rig.kernel.refused > 2);
  t.same(rig.kernel.interrupts, []);
  rig.kernel.driverOk = true;
  t.equal(await read, 'sector');
  t.same(rig.kernel.interrupts, [0], 'once');

  rig.kernel.driverOk = false;
  rig.queue.add({ readable: [blkHeader(0, 0)], writable: [512, 1] });
  if (rig.queue.kick()) signalEventfd(rig.kernel.kicks.get(0) ?? -1);
  const { refused } = rig.kernel;
  await until(() => rig.kernel.refused > refused);
  await rig.kernel.status(0);
  rig.kernel.driverOk = true;
  await delay(50);
  t.same(rig.kernel.interrupts, [0], 'the next driver gets none of those');
});

t.test('a ring outside of its memory breaks the device until the reset', async (t) => {
  await using rig = new Rig();
  rig.kernel.queues.splice(0, 1, { ...rig.queue.config, deviceArea: 2 ** 40 });
  t.match(await rig.kernel.status(DRIVER_OK), { ok: false });
  t.match(rig.log, [/device area of queue 0 is not in memory/]);
  rig.kernel.queues.splice(0, 1, rig.queue.config);
  t.match(await rig.kernel.status(DRIVER_OK), { ok: true });
  t.match(await rig.kernel.state(0), { words: [0] }, 'not served');
  await rig.kernel.status(0);
  t.match(await rig.kernel.status(DRIVER_OK), { ok: true });
  t.equal(await rig.read(), 'sector');
});

t.test('what no version asked for is refused', async (t) => {
  await using rig = new Rig();
  t.match(await rig.kernel.ask(77), { ok: false });
});

t.test('its name and its type', async (t) => {
  using entropy = { device: createRngDevice({ name: 'rng0' }), [Symbol.dispose]() {} };
  const device = new BackendDevice(entropy.device, 0n, [64], () => {});
  t.throws(() => new VduseBackend('rng0', device, { kernel: new FakeVduse(), folder }), {
    code: 'E_VDUSE',
  });
  await device.close();
  writeFileSync(path, Buffer.alloc(MiB));
  const disk = new BackendDevice(createBlkDevice({ name: 'blk0', path }), FEATURES, [64], () => {});
  for (const name of ['', '..', 'control', 'a/b', 'x'.repeat(65)]) {
    t.throws(
      () => new VduseBackend(name, disk, { kernel: new FakeVduse(), folder }),
      { code: 'E_VDUSE' },
      name,
    );
  }
  await disk.close();
});

t.test('what a killed server left is replaced, what is in use is not', async (t) => {
  await using rig = new Rig({ leftover: true });
  t.ok(rig.kernel.exists);
  t.same(rig.kernel.take().slice(1, 4), [
    'VDUSE_CREATE_DEV',
    'VDUSE_DESTROY_DEV',
    'VDUSE_CREATE_DEV',
  ]);
});

t.test('an answer does not wait for a full queue to be served', async (t) => {
  const requests = 128;
  const features = featureSet(VIRTIO_F_INDIRECT_DESC);
  await using rig = new Rig({}, { queueSize: requests, features, size: 16 * MiB });
  await rig.kernel.status(DRIVER_OK);
  // 2 GB to be read, into few places.
  const room = Array.from({ length: 120 }, () => MiB / 8);
  for (let i = 0; i < requests; i++) {
    rig.queue.add({ readable: [blkHeader(0, 0)], writable: [...room, 1], aliased: true });
  }
  if (rig.queue.kick()) signalEventfd(rig.kernel.kicks.get(0) ?? -1);
  const { ok, words } = await rig.kernel.state(0);
  t.ok(ok);
  t.ok((words[0] ?? requests) < requests, `${words[0]} of ${requests} were taken`);
});

t.test('a status without DRIVER_OK is a reset that nobody waited for', async (t) => {
  await using rig = new Rig();
  await rig.kernel.status(DRIVER_OK);
  t.equal(await rig.read(), 'sector');
  await rig.kernel.status(1);
  t.match(await rig.kernel.state(0), { words: [0] });
});

t.test('an answer that nobody waits for harms nothing', async (t) => {
  await using rig = new Rig({ abandoned: true });
  await rig.kernel.status(DRIVER_OK);
  t.equal(await rig.read(), 'sector');
  await rig.kernel.status(0);
  t.same(rig.log, []);
});

t.test('a device that the kernel has given up', async (t) => {
  await using rig = new Rig();
  rig.kernel.givenUp = true;
  rig.kernel.wake();
  await t.rejects(rig.backend.lost, { code: 'E_VDUSE', message: /waited for an answer for 30 s/ });
});
