/** The backend by its protocol: an entropy device in this process, and a frontend without a guest. */
import { ftruncateSync, readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import * as vu from '../../../src/abi/vhost-user.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { UnixSocket } from '../../../src/host/unix-socket.ts';
import * as payload from '../../../src/vhost-user/payload.ts';
import { FrontendRig, USER_ADDRESS } from '../../support/rigs/frontend.ts';
import { fill, isRandom, path, withBackend } from '../../support/rigs/rng-backend.ts';

for (const [format, refused] of [
  ['packed', 0n],
  ['split', featureSet(VIRTIO_F_RING_PACKED)],
] as const) {
  t.test(`${format} ring: served, stopped, and continued`, (t) =>
    withBackend(async () => {
      using front = new FrontendRig(path);
      await front.negotiate(refused);
      const ring = await front.startRing(0);
      for (let i = 0; i < 40; i++) isRandom(t, await fill(ring));
      const index = payload.writeVringNumber({ index: 0, num: 0 });
      const base = payload.readVringNumber(await front.call(vu.VHOST_USER_GET_VRING_BASE, index));
      // 40 buffers are two and a half laps of 16: the wrap counters are as at first.
      t.equal(base.num, format === 'split' ? 40 : 0x8008_8008);
      ring.queue.add({ writable: [64] });
      ring.kick.signal();
      for (let i = 0; i < 10; i++) await turn();
      t.same(ring.queue.completed(), [], 'a stopped ring is not served');
      await front.resumeRing(0, base.num);
      while (ring.queue.inFlight > 0) {
        await turn();
        ring.queue.completed();
      }
      isRandom(t, await fill(ring));
    }),
  );
}

t.test('a ring that is disabled waits; memory may change under the others', (t) =>
  withBackend(async () => {
    using front = new FrontendRig(path);
    await front.negotiate();
    const ring = await front.startRing(0);
    await fill(ring);
    const enable = (num: number): Promise<bigint> =>
      front.ask(vu.VHOST_USER_SET_VRING_ENABLE, payload.writeVringNumber({ index: 0, num }));
    await enable(0);
    ring.queue.add({ writable: [64] });
    ring.kick.signal();
    for (let i = 0; i < 10; i++) await turn();
    t.same(ring.queue.completed(), []);
    t.equal(await front.shareMemory(), 0n);
    await enable(1);
    while (ring.queue.inFlight > 0) {
      await turn();
      ring.queue.completed();
    }
    isRandom(t, await fill(ring));
    const far = { gpa: 2 ** 40, size: 4096, userAddress: 4096, mmapOffset: 0 };
    const region = payload.writeMemoryRegion(far);
    const { fd } = front.ram.memory.share;
    t.equal(await front.ask(vu.VHOST_USER_ADD_MEM_REG, region, [fd]), 0n);
    isRandom(t, await fill(ring));
    t.equal(await front.ask(vu.VHOST_USER_REM_MEM_REG, region), 0n);
    isRandom(t, await fill(ring));
  }),
);

t.test('a packed ring whose frontend has only half of the base', (t) =>
  withBackend(async () => {
    using front = new FrontendRig(path);
    await front.negotiate();
    const ring = await front.startRing(0, 16, 0x8000);
    isRandom(t, await fill(ring));
  }),
);

t.test('a ring without kicks is looked at all the same', (t) =>
  withBackend(async () => {
    using front = new FrontendRig(path);
    await front.negotiate();
    const ring = await front.startRing(0);
    const index = payload.writeVringNumber({ index: 0, num: 0 });
    const { num } = payload.readVringNumber(await front.call(vu.VHOST_USER_GET_VRING_BASE, index));
    await front.resumeRing(0, num, false);
    ring.queue.add({ writable: [64] });
    while (ring.queue.inFlight > 0) {
      await turn();
      ring.queue.completed();
    }
    t.pass();
  }),
);

t.test('what frontends ask for, and the status', (t) =>
  withBackend(async () => {
    using front = new FrontendRig(path);
    await front.negotiate();
    t.equal(await front.ask(vu.VHOST_USER_GET_QUEUE_NUM), 1n);
    t.equal(await front.ask(vu.VHOST_USER_GET_MAX_MEM_SLOTS), 32n);
    t.equal(await front.ask(vu.VHOST_USER_SET_STATUS, payload.writeU64(15)), 0n);
    t.equal(await front.ask(vu.VHOST_USER_GET_STATUS), 15n);
    const access = { offset: 0, liveMigration: false, bytes: new Uint8Array(8).fill(1) };
    const config = await front.call(vu.VHOST_USER_GET_CONFIG, payload.writeConfigAccess(access));
    t.same([...payload.readConfigAccess(config).bytes], [0, 0, 0, 0, 0, 0, 0, 0], 'it has none');
    const ring = await front.startRing(0);
    await fill(ring);
    t.equal(await front.ask(vu.VHOST_USER_SET_STATUS, payload.writeU64(0)), 0n);
    const index = payload.writeVringNumber({ index: 0, num: 0 });
    const base = await front.call(vu.VHOST_USER_GET_VRING_BASE, index);
    t.equal(payload.readVringNumber(base).num, 0, 'a reset forgets the position');
  }),
);

t.test('frontends come one after the other; a silent one makes room', (t) =>
  withBackend(async (log) => {
    for (let i = 0; i < 3; i++) {
      using front = new FrontendRig(path);
      await front.negotiate();
      isRandom(t, await fill(await front.startRing(0)));
    }
    using silent = new FrontendRig(path);
    await turn();
    using front = new FrontendRig(path);
    await front.negotiate();
    isRandom(t, await fill(await front.startRing(0)));
    t.equal(await silent.closed, undefined);
    t.same(log, []);
  }),
);

const legacy = featureSet(VIRTIO_F_VERSION_1);
/** What breaks the device, and what it logs. */
const breaking: Record<string, [break_: (front: FrontendRig) => Promise<void>, RegExp]> = {
  'a ring outside of the memory': [
    async (front) => {
      await front.negotiate();
      const ring = await front.startRing(0);
      Object.assign(ring.queue.config, { deviceArea: 2 ** 30 });
      await front.resumeRing(0, 0);
    },
    /^rng0: stopped: .*the used ring of ring 0, at 0x7f0040000000, is in no memory region$/,
  ],
  'a buffer outside of the memory': [
    async (front) => {
      await front.negotiate(featureSet(VIRTIO_F_RING_PACKED));
      const { queue, kick } = await front.startRing(0);
      queue.add({ writable: [64] });
      queue.descriptorArea.setUint32(4, 7, true);
      kick.signal();
    },
    /^rng0: stopped: queue 0: a buffer lies outside of guest RAM/,
  ],
  'a legacy driver': [
    async (front) => {
      await front.negotiate(legacy);
      await front.startRing(0);
    },
    /^rng0: stopped: the driver is a legacy driver/,
  ],
};
for (const [name, [breakIt, expected]] of Object.entries(breaking)) {
  t.test(`${name} stops the device, until it is reset`, (t) =>
    withBackend(async (log) => {
      using front = new FrontendRig(path);
      await breakIt(front);
      while (log.length === 0) await turn();
      t.match(log[0], expected);
      t.equal(await front.ask(vu.VHOST_USER_GET_STATUS), 64n, 'DEVICE_NEEDS_RESET');
      t.equal(await front.ask(vu.VHOST_USER_SET_STATUS, payload.writeU64(0)), 0n);
      t.equal(await front.ask(vu.VHOST_USER_GET_STATUS), 0n);
      using next = new FrontendRig(path);
      front.channel.close();
      await next.negotiate();
      isRandom(t, await fill(await next.startRing(0)));
      t.equal(log.length, 1);
    }),
  );
}

/** A record of what is in flight. */
const area = (queues: number): payload.InflightArea => ({
  mmapSize: 4096,
  mmapOffset: 0,
  queues,
  queueSize: 64,
});

/** What ends the connection, and what is logged. */
const hostile: Record<string, [say: (front: FrontendRig) => void, RegExp]> = {
  'features that are not offered': [
    ({ channel }) => channel.send(vu.VHOST_USER_SET_FEATURES, 0, payload.writeU64(1n << 50n)),
    /feature bits 0x4000000000000, which are not offered$/,
  ],
  'protocol features that are not offered': [
    ({ channel }) =>
      channel.send(vu.VHOST_USER_SET_PROTOCOL_FEATURES, 0, payload.writeU64(1n << 8n)),
    /protocol features 0x100, which are not offered$/,
  ],
  'a ring that is not there': [
    ({ channel }) =>
      channel.send(vu.VHOST_USER_SET_VRING_BASE, 0, payload.writeVringNumber({ index: 1, num: 0 })),
    /ring 1 of a device with 1$/,
  ],
  'a ring that is too large': [
    ({ channel }) =>
      channel.send(vu.VHOST_USER_SET_VRING_NUM, 0, payload.writeVringNumber({ index: 0, num: 65 })),
    /ring 0 with 65 descriptors, more than its 64$/,
  ],
  'a file instead of an eventfd': [
    ({ channel, ram }) =>
      channel.send(vu.VHOST_USER_SET_VRING_KICK, 0, payload.writeVringFd(0, true), [
        ram.memory.share.fd,
      ]),
    /the peer sent \/memfd:nodevmm-ram \(deleted\) instead of an eventfd$/,
  ],
  'a region past the end of its file': [
    ({ channel, ram }) => {
      const region = { gpa: 0, size: 2 ** 30, userAddress: USER_ADDRESS, mmapOffset: 0 };
      channel.send(vu.VHOST_USER_SET_MEM_TABLE, 0, payload.writeMemoryTable([region]), [
        ram.memory.share.fd,
      ]);
    },
    /the region at 0x0 ends at 1073741824 in a file of 8388608 bytes$/,
  ],
  'regions with the same user address': [
    ({ channel, ram }) => {
      const one = { gpa: 0, size: 8192, userAddress: USER_ADDRESS, mmapOffset: 0 };
      const table = payload.writeMemoryTable([one, { ...one, gpa: 2 ** 20 }]);
      const { fd } = ram.memory.share;
      channel.send(vu.VHOST_USER_SET_MEM_TABLE, 0, table, [fd, fd]);
    },
    /memory regions overlap at user address 0x7f0000000000$/,
  ],
  'a region to remove that is not there': [
    ({ channel }) => {
      const region = { gpa: 0, size: 8192, userAddress: USER_ADDRESS, mmapOffset: 0 };
      channel.send(vu.VHOST_USER_REM_MEM_REG, 0, payload.writeMemoryRegion(region));
    },
    /no memory region at 0x0 to remove$/,
  ],
  'a configuration write': [
    ({ channel }) => {
      const access = { offset: 0, liveMigration: false, bytes: Uint8Array.of(1) };
      channel.send(vu.VHOST_USER_SET_CONFIG, 0, payload.writeConfigAccess(access));
    },
    /configuration bytes from 0 are read-only$/,
  ],
  'a record for more queues than there are': [
    ({ channel }) => channel.send(vu.VHOST_USER_GET_INFLIGHT_FD, 0, payload.writeInflight(area(2))),
    /an inflight buffer for 2 queues of 64 descriptors, where the device has 1 queues$/,
  ],
  'a record that is too small for its queues': [
    ({ channel, ram }) => {
      const small = { ...area(1), mmapSize: 1024 };
      const { fd } = ram.memory.share;
      channel.send(vu.VHOST_USER_SET_INFLIGHT_FD, 0, payload.writeInflight(small), [fd]);
    },
    /an inflight buffer of 1024 bytes at 0 in a file of 8388608, where 1 queues of 64 need 2112$/,
  ],
  'a record past the end of its file': [
    ({ channel, ram }) => {
      const far = { ...area(1), mmapOffset: 8 * 2 ** 20 };
      const { fd } = ram.memory.share;
      channel.send(vu.VHOST_USER_SET_INFLIGHT_FD, 0, payload.writeInflight(far), [fd]);
    },
    /an inflight buffer of 4096 bytes at 8388608 in a file of 8388608, /,
  ],
  'a record that is no file': [
    ({ channel, rings }) => {
      const fds = [rings[0]?.kick.fd ?? -1];
      channel.send(vu.VHOST_USER_SET_INFLIGHT_FD, 0, payload.writeInflight(area(1)), fds);
    },
    /the inflight buffer is not in a plain file$/,
  ],
  'a record that was not negotiated': [
    ({ channel }) => {
      channel.send(vu.VHOST_USER_SET_PROTOCOL_FEATURES, 0, payload.writeU64(1));
      channel.send(vu.VHOST_USER_GET_INFLIGHT_FD, 0, payload.writeInflight(area(1)));
    },
    /GET_INFLIGHT_FD was not negotiated$/,
  ],
  'a request channel that is no socket': [
    ({ channel, ram }) =>
      channel.send(vu.VHOST_USER_SET_BACKEND_REQ_FD, 0, undefined, [ram.memory.share.fd]),
    /the channel for requests of the backend is not a socket$/,
  ],
  'a request channel that leads back to us': [
    (front) => {
      // Held by us, it would keep the connection open after its frontend is gone.
      using own = UnixSocket.connect(path);
      front.channel.send(vu.VHOST_USER_SET_BACKEND_REQ_FD, 0, undefined, [own.fd]);
    },
    /the channel for requests of the backend leads back to it$/,
  ],
  'an unknown request': [
    ({ channel }) => channel.send(77),
    /request 77 is unknown, or belongs to a feature not negotiated$/,
  ],
};
for (const [name, [say, expected]] of Object.entries(hostile)) {
  t.test(`${name} ends the connection, and nothing leaks`, (t) =>
    withBackend(async (log) => {
      await turn();
      const before = readdirSync('/proc/self/fd').length;
      {
        using front = new FrontendRig(path);
        await front.negotiate();
        isRandom(t, await fill(await front.startRing(0)));
        say(front);
        await front.closed;
      }
      while (log.length === 0) await turn();
      t.match(log[0], /^rng0: disconnected: /);
      t.match(log[0], expected);
      for (let i = 0; i < 5; i++) await turn();
      t.equal(readdirSync('/proc/self/fd').length, before);
      using next = new FrontendRig(path);
      await next.negotiate();
      isRandom(t, await fill(await next.startRing(0)));
    }),
  );
}

t.test('memory that is taken away ends the connection, and not the process', (t) =>
  withBackend(async (log) => {
    using front = new FrontendRig(path);
    await front.negotiate();
    const ring = await front.startRing(0);
    await fill(ring);
    ftruncateSync(front.ram.memory.share.fd, 0);
    ring.kick.signal();
    await front.closed;
    while (log.every((line) => !line.includes('disconnected'))) await turn();
    t.match(log.at(-1), /it truncated memory that it had shared$/);
  }),
);
