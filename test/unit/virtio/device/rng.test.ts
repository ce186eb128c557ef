/** The entropy device (virtio 1.3 §5.4). */
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { createRngDevice } from '../../../../src/virtio/device/rng/rng.ts';
import type { QueueHandler } from '../../../../src/virtio/device.ts';

function start(...ring: number[]): DeviceRig {
  const device = createRngDevice({ name: 'rng0' });
  const rig = new DeviceRig();
  const handler = (device.createHandler as () => QueueHandler).call(device);
  rig.start(handler, featureSet(VIRTIO_F_VERSION_1, ...ring), [64]);
  return rig;
}

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`§5.4.6.2 every buffer is filled with random bytes (${format})`, async (t) => {
    const rig = start(...ring);
    for (const writable of [[64], [1], [100, 300], [16]]) rig.queue(0).add({ writable });
    t.ok(rig.kick(0));
    const done = rig.queue(0).completed();
    t.same(
      done.map(({ written }) => written),
      [64, 1, 400, 16],
    );
    const bytes = [...(done[2]?.data ?? [])];
    t.ok(new Set(bytes).size > 100, 'many different values');
    t.notSame(done[0]?.data.subarray(0, 16), done[3]?.data);
    t.equal(rig.interrupts(0), 1, 'one interrupt for the batch');
    rig[Symbol.dispose]();
  });
}

t.test('§5.4.6 a large buffer gets 64 KiB, one without room gets nothing', async (t) => {
  const rig = start();
  rig.queue(0).add({ writable: [1024 * 1024] });
  rig.queue(0).add({ readable: [new Uint8Array(8)] });
  rig.kick(0);
  t.same(
    rig
      .queue(0)
      .completed()
      .map(({ written }) => written),
    [65536, 0],
  );
  rig[Symbol.dispose]();
});

t.test('no two buffers get the same bytes, past the end of what is drawn at once', async (t) => {
  const rig = start();
  const seen = new Set<string>();
  for (let round = 0; round < 20; round++) {
    for (const length of [5000, 16, 64]) rig.queue(0).add({ writable: [length] });
    rig.kick(0);
    for (const { data } of rig.queue(0).completed()) {
      t.equal(
        data.findIndex(
          (_, at) => at % 16 === 0 && data.subarray(at, at + 16).every((b) => b === 0),
        ),
        -1,
      );
      seen.add(Buffer.from(data.subarray(0, 16)).toString('hex'));
    }
  }
  t.equal(seen.size, 60);
  rig[Symbol.dispose]();
});

t.test('many buffers are served in turns', async (t) => {
  const rig = start();
  for (let i = 0; i < 40; i++) rig.queue(0).add({ writable: [8] });
  rig.kick(0);
  t.equal(rig.queue(0).completed().length, 16);
  rig.pump();
  t.equal(rig.queue(0).completed().length, 16);
  rig.pump();
  t.equal(rig.queue(0).completed().length, 8);
  rig[Symbol.dispose]();
});

t.test('§2.7.5 a broken queue breaks the device', async (t) => {
  const rig = start();
  rig.queue(0).add({ writable: [8] });
  rig.queue(0).descriptorArea.setBigUint64(0, 2n ** 60n, true);
  rig.kick(0);
  t.match(rig.brokenReason, /§/);
  rig[Symbol.dispose]();
});
