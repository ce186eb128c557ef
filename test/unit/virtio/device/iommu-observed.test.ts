/** An IOMMU under `--check` and `--trace`: the rules of §5.13 for its driver, and what is recorded. */
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-iommu.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { IommuDevice } from '../../../../src/virtio/device/iommu/iommu.ts';
import { PROBE_SIZE } from '../../../../src/virtio/device/iommu/iommu-handler.ts';
import { ChromeTrace } from '../../../../src/virtio/observe/trace/chrome-trace.ts';
import { whomOf } from '../../../../src/virtio/observe/trace/trace-record.ts';
import type { TraceRecord } from '../../../../src/virtio/observe/trace/trace-ring.ts';

const GiB = 2 ** 30;
const SPACE = { map: () => true, unmap: () => {}, clear: () => {}, bypass: () => {} };

function setUp() {
  const breaches: string[] = [];
  const records: TraceRecord[] = [];
  const device = new IommuDevice('iommu0');
  device.watch({
    breach: (rule, text, note) => void breaches.push(`${rule}: ${text}; ${note}`),
    record: (what, a, b, x, y) =>
      void records.push({ time: records.length, what, whom: whomOf(0), a, b, x, y }),
  });
  device.setMemory({ offset: (gpa, length) => (gpa + length <= GiB ? gpa : -1) }, 4 * GiB);
  device.powerOn(new Map([[8, SPACE]]));
  const rig = new DeviceRig();
  rig.start(device.createHandler(), featureSet(VIRTIO_F_VERSION_1), [64, 64]);
  const ask = (type: number, values: readonly number[], writable = 4): void => {
    const bytes = new Uint8Array(4 + values.length * 4);
    const view = new DataView(bytes.buffer);
    [type, ...values].forEach((value, i) => {
      view.setUint32(i * 4, value, true);
    });
    rig.queue(0).add({ readable: [bytes], writable: [writable] });
    rig.kick(0);
    rig.queue(0).completed();
  };
  return {
    device,
    rig,
    breaches,
    records,
    attach: (domain: number, flags = 0, reserved = 0) =>
      ask(abi.VIRTIO_IOMMU_T_ATTACH, [domain, 8, flags, reserved]),
    detach: (domain: number) => ask(abi.VIRTIO_IOMMU_T_DETACH, [domain, 8, 0, 0]),
    map: (domain: number, start: number, end: number, gpa: number, flags: number) =>
      ask(abi.VIRTIO_IOMMU_T_MAP, [domain, start, 0, end, 0, gpa, 0, flags]),
    unmap: (domain: number, start: number, end: number) =>
      ask(abi.VIRTIO_IOMMU_T_UNMAP, [domain, start, 0, end, 0, 0]),
    probe: (room: number) =>
      ask(abi.VIRTIO_IOMMU_T_PROBE, [8, ...new Array<number>(16).fill(0)], room + 4),
  };
}

type Rig = ReturnType<typeof setUp>;

t.test('a driver that keeps the rules is not reported', async (t) => {
  const rig = setUp();
  rig.probe(PROBE_SIZE);
  rig.attach(1);
  rig.map(1, 0x1000, 0x2fff, 0x5000, 3);
  rig.map(1, 0x3000, 0x3fff, 0x9000, 0);
  rig.unmap(1, 0, 0xffff);
  rig.unmap(1, 0x1000, 0x1fff);
  rig.detach(1);
  t.same(rig.breaches, []);
  rig.rig.close();
});

const broken: Readonly<Record<string, readonly [(rig: Rig) => void, string]>> = {
  'iommu-attach-reserved': [(rig) => rig.attach(1, 0, 7), '§5.13.6.3.1); endpoint 8, domain 1'],
  'iommu-attach-bypass': [
    (rig) => {
      rig.attach(1);
      rig.attach(1, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS);
    },
    '§5.13.6.3.1); endpoint 8',
  ],
  'iommu-map-order': [(rig) => rig.map(1, 0x2000, 0x1fff, 0, 3), '§5.13.6.5.1); domain 1, 0x2000'],
  'iommu-map-flags': [(rig) => rig.map(1, 0x1000, 0x1fff, 0, 4), '§5.13.6.5.1); domain 1'],
  'iommu-map-bypass': [
    (rig) => {
      rig.attach(2, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS);
      rig.map(2, 0x1000, 0x1fff, 0, 3);
    },
    '§5.13.6.5.1); domain 2',
  ],
  'iommu-map-reserved': [
    (rig) => rig.map(1, 0xfee0_0000, 0xfee0_0fff, 0, 3),
    '§5.13.6.8.1.1); domain 1',
  ],
  'iommu-map-granularity': [
    (rig) => rig.map(1, 0x1000, 0x17ff, 0, 3),
    '§5.13.6.5.2); domain 1, 0x1000 to 0x17ff',
  ],
  'iommu-unmap-bypass': [
    (rig) => {
      rig.attach(2, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS);
      rig.unmap(2, 0, 0xfff);
    },
    '§5.13.6.6.1); domain 2',
  ],
  'iommu-unmap-split': [
    (rig) => {
      rig.attach(1);
      rig.map(1, 0x1000, 0x4fff, 0, 3);
      rig.unmap(1, 0x2000, 0xffff);
    },
    '§5.13.6.6.1); domain 1, 0x2000 to 0xffff; there is a mapping from 0x1000 to 0x4fff',
  ],
  'iommu-probe-size': [(rig) => rig.probe(64), `§5.13.6.7.1); 64 bytes instead of ${PROBE_SIZE}`],
};
for (const [rule, [act, rest]] of Object.entries(broken)) {
  t.test(`a driver that breaks ${rule}`, async (t) => {
    const rig = setUp();
    act(rig);
    const [first = '', ...others] = rig.breaches;
    t.same(others, []);
    t.ok(first.startsWith(`${rule}: `), first);
    t.ok(first.includes(`(virtio 1.3 ${rest}`), first);
    rig.rig.close();
  });
}

t.test('a trace has what the driver changes, and what was denied', async (t) => {
  const rig = setUp();
  rig.attach(1);
  rig.map(1, 0x1000, 0x2fff, 0x5000, 1);
  rig.map(1, 0x1000, 0x2fff, 0x5000, 1);
  rig.device.denied(8, { address: 0x7000, write: true });
  rig.unmap(1, 0, 0xffff);
  rig.detach(1);
  const names = { devices: [{ name: 'iommu0', queues: [] }], cpus: 0 };
  const events: { name: string; args: object }[] = [];
  const trace = new ChromeTrace({ ...names, exit: String, status: String }, (json) => {
    const event = JSON.parse(json);
    if (event.ph === 'i') events.push(event);
  });
  for (const record of rig.records) trace.take(record);
  t.strictSame(
    events.map(({ name, args }) => [name, args]),
    [
      ['attach', { endpoint: 8, domain: 1 }],
      ['map', { domain: 1, address: '0x1000', guest_physical: '0x5000', pages: 2, access: 'r' }],
      ['fault', { endpoint: 8, address: '0x7000', access: 'w' }],
      ['unmap', { domain: 1, from: '0x0', to: '0xffff', mappings: 1 }],
      ['detach', { endpoint: 8, domain: 1 }],
    ],
  );
  rig.rig.close();
});
