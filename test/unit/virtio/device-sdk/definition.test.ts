/** What can be defined, and what it is refused for. */
import t from 'tap';
import { ConfigFields } from '../../../../src/virtio/device-sdk/config-fields.ts';
import { DefinedDevice } from '../../../../src/virtio/device-sdk/defined-device.ts';
import {
  type DeviceDefinition,
  defineDevice,
} from '../../../../src/virtio/device-sdk/definition.ts';

const queues = { requests: { handle: () => {} } };
const define = (definition: Partial<DeviceDefinition>) =>
  defineDevice({ deviceId: 42, queues, ...definition })({});

t.test('a definition becomes a device', (t) => {
  const device = new DefinedDevice(
    'own0',
    define({
      features: { UPPER: 3, LATE: 50 },
      config: { a: { bytes: 1, initial: 5 }, b: { bytes: 2, writable: true, initial: 0x1234 } },
      queues: { first: { size: 8, handle: () => {} }, second: { handle: () => {} } },
    }),
  );
  t.equal(device.deviceId, 42);
  t.equal(device.features, 8n | (1n << 50n));
  t.same(device.queues, [
    { name: 'first', maxSize: 8 },
    { name: 'second', maxSize: 256 },
  ]);
  t.same([...device.config], [5, 0x34, 0x12]);
  t.same([...device.configWriteMask], [0, 0xff, 0xff]);
  t.same(device.thread, { kind: 'main' });
  t.end();
});

t.test('options make another definition', (t) => {
  const factory = defineDevice(({ size }) => ({
    deviceId: 42,
    queues: { requests: { size: Number(size), handle: () => {} } },
  }));
  t.equal(factory({ size: '16' }).queues.requests?.size, 16);
  t.throws(() => factory({ size: '17' }), { code: 'E_DEVICE', message: /17 descriptors/ });
  t.end();
});

t.test('what no carrier could take is refused', (t) => {
  const handle = () => {};
  const wrong: [Partial<DeviceDefinition>, RegExp][] = [
    [{ deviceId: 0 }, /deviceId 0/],
    [{ deviceId: 64 }, /§4\.1\.2/],
    [{ features: { X: 28 } }, /feature X is bit 28/],
    [{ features: { X: 64 } }, /§2\.2/],
    [{ queues: {} }, /has 0 queues/],
    [{ queues: { q: { size: 3, handle } } }, /queue q has 3/],
    [{ queues: { q: {} as { handle: () => void } } }, /no function handle/],
    [{ config: { x: { bytes: 3 as 4 } } }, /field x has 3 bytes/],
  ];
  for (const [definition, message] of wrong) {
    t.throws(() => define(definition), { code: 'E_DEVICE', message }, String(message));
  }
  t.end();
});

t.test('configuration fields are little-endian and bounded', (t) => {
  const fields = new ConfigFields({ a: { bytes: 1 }, b: { bytes: 8, initial: 2 ** 40 + 1 } });
  const bytes = fields.initial();
  const view = new DataView(bytes.buffer);
  t.same([...bytes], [0, 1, 0, 0, 0, 0, 1, 0, 0]);
  t.equal(fields.get(view, 'b'), 2 ** 40 + 1);
  fields.set(view, 'a', 255);
  t.equal(bytes[0], 255);
  for (const value of [256, -1, 1.5, Number.NaN]) {
    t.throws(() => fields.set(view, 'a', value), { code: 'E_CONFIG' }, String(value));
  }
  t.throws(() => fields.get(view, 'c'), { code: 'E_CONFIG', message: /the fields are: a, b$/ });
  t.same(fields.touched(0, 1), ['a']);
  t.same(fields.touched(0, 2), ['a', 'b']);
  t.same(fields.touched(5, 4), ['b']);
  t.end();
});
