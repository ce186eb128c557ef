/** A device in a page: requests, answers in any order, and code that goes wrong. */
import fc from 'fast-check';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { DeviceRig } from '../../../../src/testing/device-rig.ts';
import { DefinedHandler } from '../../../../src/virtio/device-sdk/defined-handler.ts';
import {
  type DeviceDefinition,
  defineDevice,
} from '../../../../src/virtio/device-sdk/definition.ts';

const SPLIT = featureSet(VIRTIO_F_VERSION_1);
const PACKED = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED);
const turns = () => new Promise((done) => setImmediate(done));

type Handle = DeviceDefinition['queues'][string]['handle'];

function rigOf(handle: Handle, features = SPLIT, more: Partial<DeviceDefinition> = {}) {
  const rig = new DeviceRig();
  const definition = defineDevice({ deviceId: 42, queues: { requests: { handle } }, ...more })({});
  rig.start(new DefinedHandler(definition), features, [16]);
  return rig;
}

/** Answers with what was asked, in capitals. */
const shout: Handle = (request) => {
  const text = Buffer.from(request.read()).toString('latin1').toUpperCase();
  request.write(Buffer.from(text, 'latin1').subarray(0, request.writableLength));
};

function add(rig: DeviceRig, text: string, room: number): void {
  rig.queue(0).add({ readable: [Buffer.from(text)], writable: [room] });
  rig.notify(0);
}

const answers = (rig: DeviceRig): string[] =>
  rig
    .queue(0)
    .completed()
    .map(({ data }) => Buffer.from(data).toString('latin1'));

for (const [format, features] of [
  ['split', SPLIT],
  ['packed', PACKED],
] as const) {
  t.test(`${format}: a request is answered when its function returns`, (t) => {
    using rig = rigOf(shout, features);
    add(rig, 'hello', 10);
    add(rig, 'world', 3);
    t.same(answers(rig), ['HELLO', 'WOR']);
    t.equal(rig.interrupts(0), 2);
    t.end();
  });

  t.test(`${format}: or when its promise resolves, in any order`, async (t) => {
    const resolve = new Map<string, () => void>();
    using rig = rigOf((request, _device) => {
      const text = Buffer.from(request.read()).toString();
      return new Promise<void>((done) => resolve.set(text, done)).then(() =>
        request.write(Buffer.from(`<${text}>`)),
      );
    }, features);
    for (const text of ['a', 'b', 'c']) add(rig, text, 10);
    t.same(answers(rig), []);
    resolve.get('c')?.();
    await turns();
    resolve.get('a')?.();
    await turns();
    t.same(answers(rig), ['<c>', '<a>']);
    add(rig, 'd', 10);
    resolve.get('d')?.();
    resolve.get('b')?.();
    await turns();
    t.same(answers(rig).sort(), ['<b>', '<d>']);
  });
}

t.test('virtio 1.3 §2.7.8 the written length is reported to the driver', (t) => {
  using rig = rigOf((request) => {
    request.write(Uint8Array.of(1, 2), 4);
    request.write(Uint8Array.of(3));
    request.write(Uint8Array.of(9), 0);
  });
  add(rig, '', 10);
  const [buffer] = rig.queue(0).completed();
  t.equal(buffer?.written, 7);
  const data = buffer?.data ?? [];
  t.same([data[0], data[4], data[5], data[6]], [9, 1, 2, 3]);
  t.end();
});

t.test('a request that is longer than its buffer reads what there is', (t) => {
  const seen: number[] = [];
  using rig = rigOf((request) => {
    seen.push(request.read(2, 100).length, request.read(9).length, request.read(1, 1).length);
  });
  add(rig, 'hello', 1);
  t.same(seen, [3, 0, 1]);
  t.end();
});

t.test('code that throws breaks the device, and the line is reported', async (t) => {
  for (const [name, handle, reason] of [
    [
      'throws',
      () => {
        throw new Error('no idea');
      },
      /no idea.*defined-handler\.test/s,
    ],
    [
      'rejects',
      async () => {
        throw new Error('late idea');
      },
      /late idea.*defined-handler\.test/s,
    ],
    ['writes past the end', (request) => request.write(new Uint8Array(11)), /room for 10/],
    ['writes before the start', (request) => request.write(new Uint8Array(1), -1), /room for 10/],
  ] satisfies [string, Handle, RegExp][]) {
    let failure: unknown;
    using rig = rigOf(handle);
    try {
      add(rig, 'x', 10);
    } catch (error) {
      // The thread around it hands this to \`HandlerRunner.failed\`.
      failure = error;
    }
    await turns();
    t.match(rig.brokenReason ?? (failure as Error | undefined)?.stack, reason, name);
  }
});

t.test('a request is dead once it is answered', async (t) => {
  let kept: Parameters<Handle>[0] | undefined;
  using rig = rigOf((request) => {
    kept = request;
  });
  add(rig, 'x', 10);
  t.throws(() => kept?.write(Uint8Array.of(1)), { code: 'E_REQUEST' });
  t.throws(() => kept?.read(), { code: 'E_REQUEST' });
  t.equal(rig.queue(0).completed()[0]?.written, 0);
});

/** A device whose answers come from the test, by request. */
function slowDevice(features = SPLIT) {
  const calls: string[] = [];
  const resolve = new Map<string, () => void>();
  const errors: unknown[] = [];
  const handle: Handle = async (request) => {
    const text = Buffer.from(request.read()).toString();
    calls.push(text);
    await new Promise<void>((done) => resolve.set(text, done));
    try {
      request.write(Buffer.from(text.toUpperCase()));
    } catch (error) {
      errors.push(error);
      throw error;
    }
  };
  const definition = defineDevice({ deviceId: 42, queues: { requests: { handle } } })({});
  const rig = new DeviceRig();
  const handler = new DefinedHandler(definition);
  rig.start(handler, features, [16]);
  const answer = async (text: string): Promise<void> => {
    resolve.get(text)?.();
    await turns();
  };
  const next = () => new DefinedHandler(definition);
  return {
    rig,
    handler,
    calls,
    errors,
    answer,
    next,
    [Symbol.dispose]: () => rig[Symbol.dispose](),
  };
}

for (const [format, features] of [
  ['split', SPLIT],
  ['packed', PACKED],
  ['in order', featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_IN_ORDER)],
] as const) {
  t.test(`${format}: unanswered requests go to the next datapath`, async (t) => {
    using slow = slowDevice(features);
    const { rig } = slow;
    for (const text of ['a', 'b', 'c', 'd']) add(rig, text, 10);
    await slow.answer('a');
    await slow.answer('b');
    t.equal(slow.handler.drain([0]), undefined, 'nothing was overtaken');
    rig.handOver(slow.next(), features);
    t.same(slow.calls, ['a', 'b', 'c', 'd', 'c', 'd']);
    t.same(answers(rig), ['A', 'B']);
    await slow.answer('d');
    await slow.answer('c');
    t.same(answers(rig).sort(), ['C', 'D']);
    add(rig, 'e', 10);
    await slow.answer('e');
    t.same(answers(rig), ['E']);
    t.equal(rig.brokenReason, undefined);
  });
}

t.test('an answer that comes after the request was given back is refused', async (t) => {
  using slow = slowDevice();
  add(slow.rig, 'x', 10);
  slow.rig.stop();
  t.same(answers(slow.rig), [], 'half an answer is none');
  await slow.answer('x');
  t.match(slow.errors, [{ code: 'E_REQUEST', message: /given back/ }]);
  t.equal(slow.rig.brokenReason, undefined, 'and does no harm');
});

t.test(
  'requests that were overtaken are waited for before the queues are handed over',
  async (t) => {
    using slow = slowDevice();
    const { rig, handler } = slow;
    for (const text of ['a', 'b', 'c']) add(rig, text, 10);
    await slow.answer('b');
    let drained = false;
    const draining = handler.drain([0])?.then(() => {
      drained = true;
    });
    add(rig, 'late', 10);
    await turns();
    t.equal(drained, false);
    t.same(slow.calls, ['a', 'b', 'c'], 'no more are taken');
    await slow.answer('a');
    await draining;
    rig.handOver(slow.next(), SPLIT);
    t.same(slow.calls, ['a', 'b', 'c', 'c', 'late']);
    t.same(answers(rig), ['B', 'A']);
    t.equal(rig.brokenReason, undefined);
  },
);

t.test('one that stays without an answer breaks the device', async (t) => {
  using slow = slowDevice();
  for (const text of ['a', 'b']) add(slow.rig, text, 10);
  await slow.answer('b');
  await slow.handler.drain([0]);
  slow.rig.stop();
  t.match(slow.rig.brokenReason, /overtook/);
  t.same(answers(slow.rig), ['B']);
});

t.test('but not when another queue is handed over, and the driver gave up this one', async (t) => {
  using slow = slowDevice();
  for (const text of ['a', 'b']) add(slow.rig, text, 10);
  await slow.answer('b');
  t.equal(slow.handler.drain([1]), undefined);
  slow.rig.stop();
  t.equal(slow.rig.brokenReason, undefined);
});

t.test('but not when the driver gave it up by a reset', async (t) => {
  using slow = slowDevice();
  for (const text of ['a', 'b']) add(slow.rig, text, 10);
  await slow.answer('b');
  slow.rig.stop();
  t.equal(slow.rig.brokenReason, undefined);
});

t.test('a request whose code threw goes to the code that replaces it', async (t) => {
  let fails = true;
  const handle: Handle = (request) => {
    if (fails) throw new Error('not yet');
    shout(request, {} as Parameters<Handle>[1]);
  };
  using rig = rigOf(handle);
  t.throws(() => add(rig, 'x', 10), /not yet/);
  fails = false;
  const definition = defineDevice({ deviceId: 42, queues: { requests: { handle } } })({});
  rig.handOver(new DefinedHandler(definition), SPLIT);
  t.same(answers(rig), ['X']);
});

t.test('a read does not allocate what a driver names again and again', (t) => {
  const lengths: number[] = [];
  using rig = rigOf((request) => {
    lengths.push(request.read(0, 16 * MiB).length, request.readableLength);
    request.read();
  }, SPLIT);
  rig.queue(0).add({ readable: [new Uint8Array(17 * MiB)], writable: [1] });
  t.throws(() => rig.notify(0), { code: 'E_REQUEST', message: /a read of 17825792 bytes at once/ });
  t.same(lengths, [16 * MiB, 17 * MiB]);
  t.end();
});

t.test('the configuration space has fields, and the driver is notified of changes', (t) => {
  const written: string[] = [];
  const config = {
    version: { bytes: 2, initial: 7 },
    volume: { bytes: 4, writable: true },
  } as const;
  using rig = rigOf(
    (_request, device) => device.setConfig('version', device.getConfig('version') + 1),
    SPLIT,
    { config, configWritten: (field, value) => written.push(`${field}=${value}`) },
  );
  add(rig, '', 1);
  add(rig, '', 1);
  t.same(rig.posted, [
    { field: 'version', value: 8 },
    { field: 'version', value: 9 },
  ]);
  t.end();
});

t.test('any driver: what is answered is what was asked', (t) => {
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.array(fc.tuple(fc.string({ maxLength: 20 }), fc.nat(30)), { maxLength: 40 }),
      (packed, requests) => {
        using rig = rigOf(shout, packed ? PACKED : SPLIT);
        for (const [text, room] of requests) {
          const ascii = text.replace(/[^ -~]/g, '.');
          add(rig, ascii, room + 1);
          const [answer] = answers(rig);
          if (answer !== ascii.toUpperCase().slice(0, room + 1)) return false;
        }
        return rig.brokenReason === undefined;
      },
    ),
  );
  t.end();
});
