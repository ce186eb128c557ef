/** A backend that gets copies of what is in the queues (`share=shadow`): what it sees, and what it can break. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import t from 'tap';
import * as abi from '../../../src/abi/vhost-user.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { LARGE_SIZE } from '../../../src/datapath/shadow/shadow-layout.ts';
import { findProgram } from '../../../src/guest/programs.ts';
import { CleanupStack } from '../../../src/host/cleanup-stack.ts';
import { signalEventfd } from '../../../src/host/fd.ts';
import * as sys from '../../../src/host/syscall.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import type { FrontendSession } from '../../../src/vhost-user/frontend/frontend-session.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import * as payload from '../../../src/vhost-user/payload.ts';
import { netKind } from '../../../src/virtio/device/net/frontend-net.ts';
import { otherKind, type ShareMode } from '../../../src/virtio/frontend-device.ts';
import { createVirtqueue } from '../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue } from '../../../src/virtio/queue/virtqueue.ts';
import { FakeBackend } from '../../support/fakes/backend.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';
import { programPath, untilListening } from '../../support/rigs/host.ts';

const SPLIT = featureSet(
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
);
const PACKED = SPLIT | featureSet(ring.VIRTIO_F_RING_PACKED);
const SIZE = 16;
const SHAPE = { deviceId: 42, queues: 1, queueSize: SIZE, configSize: 0 };
const RECEIVE = 0;
const TRANSMIT = 1;
/** `struct virtio_net_hdr_v1` (virtio 1.3 §5.1.6). */
const NET_HEADER = 12;
const TESTPMD = 'dpdk-testpmd';
const skip = findProgram(TESTPMD) === undefined ? `${TESTPMD} is not installed` : false;
const SECRET = 'the guest alone knows this';

/** A backend without scruples: it keeps what it was given, and uses buffers as a test wants. */
class Backend {
  readonly fake: FakeBackend;
  memory: GuestMemory | undefined;
  queue: Virtqueue | undefined;
  #callFd = -1;
  #taken: DescriptorChain[] = [];
  readonly #owned = new CleanupStack();

  constructor(socket: string) {
    this.fake = this.#owned.use(new FakeBackend(socket));
    const { acts } = this.fake;
    acts.set(abi.VHOST_USER_SET_MEM_TABLE, (message, channel) => {
      const [region] = payload.readMemoryTable(message);
      const fd = message.fds[0]?.fd ?? -1;
      const size = region?.size ?? 0;
      const address = sys.check(sys.mmap(0, size, 3, sys.MAP_SHARED, fd, 0), 'mmap', 'a test');
      this.#owned.defer(() => sys.munmap(address, size));
      this.memory = new GuestMemory({ fd: -1, address, size });
      this.fake.regions = [...payload.readMemoryTable(message)];
      channel.acknowledge(message, true);
    });
    acts.set(abi.VHOST_USER_SET_VRING_CALL, (message, channel) => {
      const [fd] = message.fds;
      if (fd !== undefined) this.#owned.use(fd);
      message.fds.length = 0;
      this.#callFd = fd?.fd ?? -1;
      channel.acknowledge(message, true);
    });
    acts.set(abi.VHOST_USER_SET_VRING_ADDR, (message, channel) => {
      const { descriptor, used, available } = payload.readVringAddress(message);
      const base = this.fake.regions[0]?.userAddress ?? 0;
      const config = {
        index: 0,
        size: SIZE,
        descriptorArea: descriptor - base,
        driverArea: available - base,
        deviceArea: used - base,
        kickFd: -1,
        callFd: -1,
      };
      if (this.memory === undefined) throw new Error('no memory');
      this.queue = createVirtqueue(this.memory, config, featureSet(ring.VIRTIO_F_VERSION_1));
      this.#taken = [];
      channel.acknowledge(message, true);
    });
  }

  /** Takes all that is available. @returns the readable bytes of each */
  take(): string[] {
    if (this.memory === undefined || this.queue === undefined) return [];
    const texts: string[] = [];
    for (;;) {
      const chain = new DescriptorChain(this.memory);
      if (this.queue.pop(chain) !== POP_CHAIN) return texts;
      this.#taken.push(chain);
      const bytes = Buffer.alloc(chain.readableLength);
      chain.read(0, bytes);
      texts.push(bytes.toString());
    }
  }

  /** Answers the i-th chain that it took. */
  use(i: number, text: string, written = text.length): void {
    const chain = this.#taken[i];
    if (chain === undefined) throw new Error(`it took no chain ${i}`);
    chain.write(0, Buffer.from(text));
    this.queue?.push(chain.id, chain.slots, written);
    this.queue?.publish();
    signalEventfd(this.#callFd);
  }

  close(): void {
    this.#owned.dispose();
  }
}

async function withRig(
  share: ShareMode,
  features: bigint,
  use: (rig: VhostUserRig, backend: Backend) => Promise<void>,
): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const backend = new Backend(socket);
  try {
    const address = { socket, server: false, timeoutMs: 10_000, share };
    const kind = (offer: Parameters<typeof otherKind>[0]) => otherKind(offer, SHAPE);
    await using rig = new VhostUserRig(await VhostUserDevice.open('test0', address, kind));
    await rig.start(features, SIZE);
    await use(rig, backend);
  } finally {
    backend.close();
  }
}

const ask = (text: string) => ({ readable: [Buffer.from(text)], writable: [5, 59] });
const answers = (buffers: readonly { writable: Uint8Array; written: number }[]): string[] =>
  buffers.map(({ writable, written }) => Buffer.from(writable.subarray(0, written)).toString());

/** Chains that the backend has taken, once there are so many. */
async function taken(rig: VhostUserRig, backend: Backend, count: number): Promise<string[]> {
  const all: string[] = [];
  await rig.until(() => {
    all.push(...backend.take());
    return all.length >= count;
  }, `${count} requests`);
  return all;
}

t.test('what a backend finds of the guest', async (t) => {
  for (const [share, found] of [
    ['all', true],
    ['shadow', false],
  ] as const) {
    await withRig(share, featureSet(ring.VIRTIO_F_VERSION_1), async (rig, backend) => {
      rig.ram.memory.bytes(12 * 2 ** 20, 100).set(Buffer.from(SECRET));
      rig.add(0, ask('in the queue'));
      t.same(await taken(rig, backend, 1), ['in the queue']);
      const { memory } = backend;
      const all = Buffer.from(memory?.bytes(0, memory.size) ?? []);
      t.equal(all.includes(SECRET), found, share);
      t.equal(all.includes('in the queue'), true);
      backend.use(0, 'answer in two segments');
      t.same(answers(await rig.completed(0)), ['answer in two segments']);
    });
  }
});

for (const [format, features] of [
  ['split', SPLIT],
  ['packed', PACKED],
] as const) {
  t.test(`${format} rings: any order, lap after lap`, (t) =>
    withRig('shadow', features, async (rig, backend) => {
      for (let lap = 0; lap < 10; lap++) {
        const texts = [`a${lap}`, `b${lap}`, `c${lap}`, `d${lap}`, `e${lap}`];
        for (const text of texts) rig.add(0, ask(text));
        t.same(await taken(rig, backend, 5), texts);
        for (const i of [3, 0, 4, 1, 2]) backend.use(5 * lap + i, `${texts[i]}!`);
        const done = answers(await rig.completed(0, 5));
        t.same(
          done.toSorted(),
          texts.map((text) => `${text}!`),
        );
      }
      t.same([rig.broken, rig.logs], [[], []]);
    }),
  );

  t.test(`${format} rings: stopped with chains in flight`, (t) =>
    withRig('shadow', features, async (rig, backend) => {
      const texts = ['a', 'b', 'c', 'd', 'e'];
      for (const text of texts) rig.add(0, ask(text));
      t.same(await taken(rig, backend, 5), texts);
      backend.use(1, 'B');
      t.same(answers(await rig.completed(0)), ['B']);
      // It is used while the queue is being stopped.
      backend.use(2, 'C');
      const states = await rig.stop();
      t.same(answers(await rig.completed(0)), ['C']);
      await rig.resume(features, states);
      t.same((await taken(rig, backend, 3)).toSorted(), ['a', 'd', 'e'], 'none is lost');
      for (const i of [0, 1, 2]) backend.use(i, `${i}`);
      t.equal((await rig.completed(0, 3)).length, 3);
      rig.add(0, ask('f'));
      t.same(await taken(rig, backend, 1), ['f']);
      backend.use(3, 'F');
      t.same(answers(await rig.completed(0)), ['F']);
      t.same([rig.broken, rig.logs], [[], []]);
    }),
  );
}

t.test('more chains than the backend has room for wait', (t) =>
  withRig('shadow', SPLIT, async (rig, backend) => {
    const count = 40;
    const all: string[] = [];
    let used = 0;
    let added = 0;
    let done = 0;
    while (done < count) {
      while (added < count && added - done < SIZE) rig.add(0, ask(`${added++}`));
      if (all.length < count) all.push(...(await taken(rig, backend, 1)));
      while (used < all.length) backend.use(used, `${used++}`);
      done += (await rig.completed(0)).length;
    }
    t.same(
      all,
      Array.from({ length: count }, (_, i) => `${i}`),
    );
  }),
);

t.test('a chain that no memory of copies has room for breaks the device', (t) =>
  withRig('shadow', SPLIT, async (rig) => {
    const piece = { writable: Array.from({ length: 5 }, () => 4 * 2 ** 20 - 8192) };
    t.ok(piece.writable.reduce((sum, one) => sum + one) > LARGE_SIZE);
    const [queue] = rig.queues;
    // Buffers of one chain may be the same memory.
    const at = rig.heap.allocate(4 * 2 ** 20);
    const { memory } = rig.ram;
    const table = queue?.config.descriptorArea ?? 0;
    for (const [i, length] of piece.writable.entries()) {
      memory.writeU64(table + 16 * i, at);
      memory.writeU32(table + 16 * i + 8, length);
      memory.writeU32(table + 16 * i + 12, 2 | (i < 4 ? 1 | ((i + 1) << 16) : 0));
    }
    queue?.driverArea.setUint16(2, 1, true);
    signalEventfd(queue?.config.kickFd ?? -1);
    await rig.until(() => rig.broken.length > 0, 'complaint');
    t.match(rig.broken[0], /queue 0: a chain of \d+ bytes; with share=shadow it may have up to/);
  }),
);

t.test(
  'a backend that writes more than there is room for, or returns what it does not have',
  async (t) => {
    await withRig('shadow', SPLIT, async (rig, backend) => {
      rig.add(0, ask('a'));
      await taken(rig, backend, 1);
      backend.use(0, 'too long', 65);
      await rig.until(() => rig.broken.length > 0, 'complaint');
      t.match(rig.broken, [/queue 0: the backend used a buffer wrongly/]);
    });
    await withRig('shadow', SPLIT, async (rig, backend) => {
      rig.add(0, ask('a'));
      await taken(rig, backend, 1);
      backend.use(0, 'once');
      await rig.completed(0);
      backend.use(0, 'twice');
      await rig.until(() => rig.broken.length > 0, 'complaint');
      t.match(rig.broken, [/queue 0: the backend used a buffer wrongly/]);
    });
  },
);

t.test('packets of a network that DPDK serves', { skip }, async (t) => {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const back = spawn(
    programPath(TESTPMD),
    [
      ...['--lcores', '(0-1)@0', '--no-huge', '-m', '128', '--no-pci', '--no-telemetry'],
      ...['--file-prefix', path.basename(folder.path), `--vdev=net_vhost0,iface=${socket}`],
      ...['--', '--forward-mode=io', '--auto-start', '--no-mlockall', '--total-num-mbufs=4096'],
    ],
    // It ends with its standard input.
    { stdio: ['pipe', 'ignore', 'ignore'] },
  );
  try {
    await untilListening(socket, back);
    for (const features of [SPLIT, PACKED]) {
      const address = { socket, server: false, timeoutMs: 20_000, share: 'shadow' } as const;
      const kind = (session: FrontendSession) =>
        netKind(session, { pairs: 1, seed: socket, queueSize: SIZE });
      await using rig = new VhostUserRig(await VhostUserDevice.open('net0', address, kind));
      await rig.start(features, SIZE);
      for (let i = 0; i < 8; i++) rig.add(RECEIVE, { writable: [2048] });
      const frame = Buffer.alloc(NET_HEADER + 100, 0x5a, 'latin1');
      frame.fill(0, 0, NET_HEADER);
      for (let i = 0; i < 4; i++) rig.add(TRANSMIT, { readable: [frame] });
      const back = await rig.completed(RECEIVE, 4);
      t.same(
        back.map(({ writable, written }) => writable.subarray(NET_HEADER, written)),
        new Array(4).fill(frame.subarray(NET_HEADER)),
      );
    }
  } finally {
    const ended = once(back, 'exit');
    back.kill('SIGKILL');
    await ended;
  }
});
