/** What a handler reads and writes of a request, however the driver cut it. */
import fc from 'fast-check';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/device-rig.ts';
import { DefinedHandler } from '../../../../src/virtio/device-sdk/defined-handler.ts';
import {
  type DeviceDefinition,
  defineDevice,
} from '../../../../src/virtio/device-sdk/definition.ts';

const SPLIT = featureSet(VIRTIO_F_VERSION_1);
const PACKED = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED);

type Handle = DeviceDefinition['queues'][string]['handle'];

function rigOf(handle: Handle, features = SPLIT) {
  const rig = new DeviceRig();
  const definition = defineDevice({ deviceId: 42, queues: { requests: { handle } } })({});
  rig.start(new DefinedHandler(definition), features, [16]);
  return rig;
}

t.test('any segments: numbers and parts are the bytes that lie there', (t) => {
  const pieces = fc.array(fc.uint8Array({ minLength: 1, maxLength: 12 }), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(
      fc.boolean(),
      pieces,
      pieces,
      fc.nat(50),
      fc.constantFrom(1, 2, 4, 8),
      (packed, readable, room, position, bytes) => {
        const sent = Buffer.concat(readable);
        const space = room.reduce((sum, { length }) => sum + length, 0);
        let number: number | undefined;
        let parts: Uint8Array = Buffer.alloc(0);
        const handle: Handle = (request) => {
          parts = Buffer.concat(
            request.readParts(position, bytes).map((part) => Buffer.from(part)),
          );
          try {
            number = request.readUint(position, bytes as 4);
          } catch {
            // The driver sent less.
          }
          if (bytes + 1 > space) return;
          request.writeUint(0xab, bytes as 4);
          const filled = request.writeParts(space - bytes);
          for (const part of filled) part.fill(0xcd);
        };
        using rig = rigOf(handle, packed ? PACKED : SPLIT);
        rig.queue(0).add({ readable, writable: room.map(({ length }) => length) });
        rig.notify(0);
        const there = sent.subarray(position, position + bytes);
        // Rounded once, as a double is: not at every byte.
        const exact = there.reduceRight((value, byte) => value * 256n + BigInt(byte), 0n);
        const expected = Number(exact);
        const whole = there.length === bytes;
        const [answer] = rig.queue(0).completed();
        const data = Buffer.from(answer?.data ?? []);
        const wrote = bytes + 1 > space ? 0 : space;
        return (
          there.equals(parts) &&
          (whole ? number === expected : number === undefined) &&
          answer?.written === wrote &&
          (wrote === 0 || (data[0] === 0xab && data.subarray(bytes).every((b) => b === 0xcd)))
        );
      },
    ),
    // A number beyond 2^53 that lies in two segments, and half way between two doubles.
    {
      examples: [
        [false, [Uint8Array.of(1, 4, 0, 0), Uint8Array.of(0, 0, 0, 128)], [Uint8Array.of(0)], 0, 8],
      ],
    },
  );
  t.end();
});

t.test('numbers and parts past the end are refused', (t) => {
  const refused: string[] = [];
  const attempt = (work: () => unknown): void => {
    try {
      work();
    } catch (error) {
      refused.push((error as { code: string }).code);
    }
  };
  using rig = rigOf((request) => {
    attempt(() => request.readUint(3, 4));
    attempt(() => request.readUint(-1, 1));
    attempt(() => request.writeUint(1, 4, 7));
    attempt(() => request.writeUint(256, 1));
    attempt(() => request.writeUint(-1, 8));
    attempt(() => request.writeParts(11));
    attempt(() => request.writeParts(-1));
  });
  rig.queue(0).add({ readable: [Buffer.from('hello')], writable: [10] });
  rig.notify(0);
  t.same(refused, Array(7).fill('E_REQUEST'));
  t.equal(rig.queue(0).completed()[0]?.written, 0);
  t.end();
});
