/** The IOMMU's queues (virtio 1.3 §5.13.6). */
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-iommu.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import type { EndpointSpace } from '../../../../src/virtio/device/iommu/domains.ts';
import { IommuDevice } from '../../../../src/virtio/device/iommu/iommu.ts';
import { PROBE_SIZE } from '../../../../src/virtio/device/iommu/iommu-handler.ts';

const GiB = 2 ** 30;
const SPACE = { map: () => true, unmap: () => {}, clear: () => {}, bypass: () => {} };

function setUp(...ring: number[]) {
  return setUpWith(SPACE, ...ring);
}

function setUpWith(space: EndpointSpace, ...ring: number[]) {
  const device = new IommuDevice('iommu0');
  device.setMemory({ offset: (gpa, length) => (gpa + length <= GiB ? gpa : -1) }, 4 * GiB);
  device.powerOn(new Map([[8, space]]));
  const rig = new DeviceRig();
  rig.start(device.createHandler(), featureSet(VIRTIO_F_VERSION_1, ...ring), [64, 64]);
  /** @returns what the device wrote */
  const ask = (readable: Uint8Array, writable = 4): Uint8Array => {
    rig.queue(0).add({ readable: [readable], writable: [writable] });
    rig.kick(0);
    const [done] = rig.queue(0).completed();
    return done?.data ?? new Uint8Array();
  };
  return { device, rig, ask };
}

/** A request of words, after its type. */
function words(type: number, ...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 + values.length * 4);
  const view = new DataView(bytes.buffer);
  [type, ...values].forEach((value, i) => {
    view.setUint32(i * 4, value, true);
  });
  return bytes;
}

const ATTACH = words(abi.VIRTIO_IOMMU_T_ATTACH, 1, 8, 0, 0);
const MAP = words(abi.VIRTIO_IOMMU_T_MAP, 1, 0x1000, 0, 0x1fff, 0, 0x5000, 0, 3);
const UNMAP = words(abi.VIRTIO_IOMMU_T_UNMAP, 1, 0x1000, 0, 0x1fff, 0, 0);
const DETACH = words(abi.VIRTIO_IOMMU_T_DETACH, 1, 8, 0, 0);

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`requests are obeyed, and their tails say so (${format})`, async (t) => {
    const { device, rig, ask } = setUp(...ring);
    t.same([...ask(ATTACH)], [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0]);
    t.same([...ask(MAP)], [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0]);
    const mapping = { address: 0x1000, length: 0x1000, gpa: 0x5000, access: 3 };
    t.same(device.domains(), [{ id: 1, bypass: false, endpoints: [8], mappings: [mapping] }]);
    t.same([...ask(MAP)], [abi.VIRTIO_IOMMU_S_INVAL, 0, 0, 0], 'there already');
    t.same([...ask(UNMAP)], [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0]);
    t.same([...ask(DETACH)], [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0]);
    t.same(device.domains(), []);
    rig.close();
  });
}

t.test('what is no request goes back unwritten', async (t) => {
  const { rig, ask } = setUp();
  for (const [name, readable, writable] of [
    ['an unknown type', words(9, 0, 0, 0, 0, 0, 0, 0, 0), 4],
    ['too short', MAP.subarray(0, 35), 4],
    ['no room for the tail', MAP, 3],
    ['a short probe', words(abi.VIRTIO_IOMMU_T_PROBE, 8), PROBE_SIZE + 4],
    ['nothing to read', new Uint8Array(), 4],
  ] as const) {
    t.equal(ask(readable, writable).length, 0, name);
  }
  rig.close();
});

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`a request ends when those who serve the devices follow (${format})`, async (t) => {
    let follow = (): void => {};
    let settled: Promise<void> | undefined;
    const calls: string[] = [];
    const space = {
      ...SPACE,
      map: () => calls.push('map') > 0,
      unmap: () => {
        calls.push('unmap');
        settled = new Promise<void>((resolve) => {
          follow = resolve;
        });
      },
      settled: () => settled,
    };
    const { rig, ask } = setUpWith(space, ...ring);
    ask(ATTACH);
    ask(MAP);
    calls.length = 0;
    rig.queue(0).add({ readable: [UNMAP], writable: [4] });
    rig.queue(0).add({ readable: [MAP], writable: [4] });
    rig.kick(0);
    rig.kick(0);
    t.same(calls, ['unmap'], 'the next one waits');
    t.same(rig.queue(0).completed(), []);
    const waited = settled;
    settled = undefined;
    follow();
    await waited;
    await new Promise((done) => setImmediate(done));
    t.same(
      rig
        .queue(0)
        .completed()
        .map(({ data }) => [...data]),
      [
        [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0],
        [abi.VIRTIO_IOMMU_S_OK, 0, 0, 0],
      ],
    );
    t.same(calls, ['unmap', 'map']);
    rig.queue(0).add({ readable: [UNMAP], writable: [4] });
    rig.kick(0);
    rig.stop();
    t.same(
      rig
        .queue(0)
        .completed()
        .map(({ data }) => [...data]),
      [[abi.VIRTIO_IOMMU_S_OK, 0, 0, 0]],
      'what was obeyed is not given back',
    );
    rig.close();
  });
}

t.test('§5.13.6.7 PROBE: the MSI doorbells', async (t) => {
  const { rig, ask } = setUp();
  const probe = (endpoint: number): Uint8Array =>
    words(abi.VIRTIO_IOMMU_T_PROBE, endpoint, ...Array.from({ length: 16 }, () => 0));
  const answer = ask(probe(8), PROBE_SIZE + 4);
  t.equal(answer.length, PROBE_SIZE + 4);
  const view = new DataView(answer.buffer, answer.byteOffset);
  t.same(
    [view.getUint16(0, true), view.getUint16(2, true), view.getUint8(4)],
    [abi.VIRTIO_IOMMU_PROBE_T_RESV_MEM, 20, abi.VIRTIO_IOMMU_RESV_MEM_T_MSI],
  );
  t.equal(view.getBigUint64(8, true), 0xfee0_0000n);
  t.equal(view.getBigUint64(16, true), 0xfeef_ffffn);
  t.ok(
    answer.subarray(24).every((byte) => byte === 0),
    'no other, and the status OK',
  );
  const refused = ask(probe(9), PROBE_SIZE + 4);
  t.equal(refused[PROBE_SIZE], abi.VIRTIO_IOMMU_S_NOENT);
  t.equal(ask(probe(8), 68)[64], abi.VIRTIO_IOMMU_S_INVAL, 'fewer properties than probe_size');
  rig.close();
});

t.test('§5.13.6.9 a denied access is an event, if the driver has a buffer for it', async (t) => {
  const { device, rig, ask } = setUp();
  device.denied(8, { address: 0x7000, write: true });
  for (const length of [24, 23, 24]) rig.queue(1).add({ writable: [length] });
  rig.kick(1);
  t.same(rig.queue(1).completed(), [], 'the first one is lost');
  device.denied(8, { address: 0x8000, write: false });
  ask(ATTACH);
  device.denied(8, { address: 2 ** 40, write: true });
  const events = rig.queue(1).completed();
  t.same(
    events.map(({ written }) => written),
    [24, 0, 24],
    'one that is too small stays empty',
  );
  const [before, , after] = events.map(({ data }) => data);
  const view = (data: Uint8Array = new Uint8Array()): DataView =>
    new DataView(data.buffer, data.byteOffset);
  t.equal(view(before).getUint8(0), abi.VIRTIO_IOMMU_FAULT_R_DOMAIN);
  t.equal(view(before).getUint32(4, true), 0x101);
  t.equal(view(before).getUint32(8, true), 8);
  t.equal(view(before).getBigUint64(16, true), 0x8000n);
  t.equal(view(after).getUint8(0), abi.VIRTIO_IOMMU_FAULT_R_MAPPING);
  t.equal(view(after).getUint32(4, true), 0x102);
  t.equal(view(after).getBigUint64(16, true), 2n ** 40n);
  rig.close();
});

t.test('any bytes are a request, or go back unwritten', async (t) => {
  const { rig, ask } = setUp();
  const bytes = fc.uint8Array({ maxLength: 80 });
  const typed = fc
    .tuple(fc.integer({ min: 0, max: 6 }), fc.uint8Array({ minLength: 35, maxLength: 80 }))
    .map(([type, rest]) => Uint8Array.from([type, 0, 0, 0, ...rest]));
  fc.assert(
    fc.property(fc.oneof(bytes, typed), fc.integer({ min: 0, max: 600 }), (readable, writable) => {
      if (readable.length + writable === 0) return true;
      const answer = ask(readable, writable);
      return answer.length <= writable && rig.brokenReason === undefined;
    }),
    { numRuns: 3000, seed: 20261129 },
  );
  t.same([...ask(DETACH)].slice(1), [0, 0, 0], 'it still answers');
  rig.close();
});
