/** vhost-user payloads: what is written is what is read, and what cannot be is refused. */
import fc from 'fast-check';
import t from 'tap';
import { PeerError } from '../../../src/host/errors.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import type { Message } from '../../../src/vhost-user/message.ts';
import * as payload from '../../../src/vhost-user/payload.ts';

const message = (view: DataView<ArrayBuffer>, fds: Message['fds'] = []): Message => ({
  request: 1,
  flags: 1,
  payload: view,
  fds,
});

const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const address = fc.integer({ min: 0, max: 2 ** 52 - 1 });
const region = fc.record({
  gpa: address,
  size: address,
  userAddress: address,
  mmapOffset: address,
});

t.test('numbers, addresses and regions come back as they were written', async (t) => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
      t.equal(payload.readU64(message(payload.writeU64(value))), value);
    }),
  );
  fc.assert(
    fc.property(fc.record({ index: u32, num: u32 }), (state) => {
      t.same(payload.readVringNumber(message(payload.writeVringNumber(state))), state);
    }),
  );
  const addresses = { descriptor: address, used: address, available: address };
  fc.assert(
    fc.property(fc.record({ index: u32, flags: u32, ...addresses }), (ring) => {
      t.same(payload.readVringAddress(message(payload.writeVringAddress(ring))), ring);
    }),
  );
  fc.assert(
    fc.property(region, (one) => {
      t.same(payload.readMemoryRegion(message(payload.writeMemoryRegion(one))), one);
    }),
  );
  fc.assert(
    fc.property(
      u32,
      fc.boolean(),
      fc.uint8Array({ maxLength: 256 }),
      (offset, liveMigration, bytes) => {
        const access = { offset, liveMigration, bytes };
        const read = payload.readConfigAccess(message(payload.writeConfigAccess(access)));
        t.same({ ...read, bytes: [...read.bytes] }, { ...access, bytes: [...bytes] });
      },
    ),
  );
  const u16 = fc.integer({ min: 0, max: 0xffff });
  const area = { mmapSize: address, mmapOffset: address, queues: u16, queueSize: u16 };
  fc.assert(
    fc.property(fc.record(area), (inflight) => {
      t.same(payload.readInflight(message(payload.writeInflight(inflight))), inflight);
    }),
  );
});

t.test('a memory table has as many regions as announced, and as descriptors', async (t) => {
  const regions = [
    { gpa: 0, size: 4096, userAddress: 0x7000_0000_0000, mmapOffset: 0 },
    { gpa: 2 ** 32, size: 8192, userAddress: 0x7000_0001_0000, mmapOffset: 4096 },
  ];
  using first = new Eventfd();
  using second = new Eventfd();
  t.same(
    payload.readMemoryTable(message(payload.writeMemoryTable(regions), [first, second])),
    regions,
  );
  t.throws(() => payload.readMemoryTable(message(payload.writeMemoryTable(regions), [first])), {
    message:
      'the vhost-user peer broke the protocol: a memory table of 2 regions in 72 bytes with 1 file descriptors',
  });
  const more = payload.writeMemoryTable(regions);
  more.setUint32(0, 0xffff_ffff, true);
  t.throws(() => payload.readMemoryTable(message(more, [first, second])), PeerError);
});

t.test('an address that no address space has is refused', async (t) => {
  const view = payload.writeMemoryRegion({ gpa: 0, size: 4096, userAddress: 0, mmapOffset: 0 });
  view.setBigUint64(8, 2n ** 64n - 1n, true);
  t.throws(() => payload.readMemoryRegion(message(view)), {
    message: 'the vhost-user peer broke the protocol: a guest address of 0xffffffffffffffff',
  });
});

t.test("a ring's descriptor comes unless bit 8 is set", async (t) => {
  using eventfd = new Eventfd();
  const kick = message(payload.writeVringFd(3, true), [eventfd]);
  t.same(payload.readVringFd(kick), { index: 3, fd: eventfd });
  t.equal(kick.fds.length, 0, "it is the caller's");
  t.same(payload.readVringFd(message(payload.writeVringFd(3, false))), {
    index: 3,
    fd: undefined,
  });
  t.throws(() => payload.readVringFd(message(payload.writeVringFd(3, true))), {
    message: /ring 3 without its file descriptor$/,
  });
  t.throws(() => payload.readVringFd(message(payload.writeVringFd(3, false), [eventfd])), {
    message: /ring 3 with a file descriptor$/,
  });
});

t.test('a configuration access has the length it announces', async (t) => {
  const access = { offset: 0, liveMigration: false, bytes: new Uint8Array(8) };
  const view = payload.writeConfigAccess(access);
  view.setUint32(4, 9, true);
  t.throws(() => payload.readConfigAccess(message(view)), {
    message: /9 bytes of configuration announced, 8 sent$/,
  });
});
