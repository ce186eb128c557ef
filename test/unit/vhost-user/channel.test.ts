/** A vhost-user connection: framing, descriptors, replies; and peers that break each rule. */
import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import {
  VHOST_USER_GET_FEATURES,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_SET_CONFIG,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
} from '../../../src/abi/vhost-user.ts';
import { Eventfd, type Fd, signalEventfd } from '../../../src/host/fd.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';
import { MAX_FDS, UnixSocket } from '../../../src/host/unix-socket.ts';
import { Channel } from '../../../src/vhost-user/channel.ts';
import {
  BACKEND_REQUESTS,
  encodeHeader,
  FRONTEND_REQUESTS,
  type Message,
} from '../../../src/vhost-user/message.ts';
import * as payload from '../../../src/vhost-user/payload.ts';

const countFds = (): number => readdirSync('/proc/self/fd').length;

/** The backend's channel, and a peer that sends it what it likes. */
class Rig implements Disposable {
  readonly peer: UnixSocket;
  readonly channel: Channel;
  readonly requests: { request: number; payload: number[]; fds: number }[] = [];
  readonly closed: Promise<Error | undefined>;

  /** Errnos of the channel's next calls on its socket. */
  readonly receiveFaults: number[] = [];
  readonly sendFaults: number[] = [];

  constructor(answer: (message: Message, rig: Rig) => Promise<void> | void = () => {}) {
    const [ours, peer] = UnixSocket.pair();
    const receive = ours.receive.bind(ours);
    const send = ours.send.bind(ours);
    ours.receive = (...args) => -(this.receiveFaults.shift() ?? 0) || receive(...args);
    ours.send = (...args) => -(this.sendFaults.shift() ?? 0) || send(...args);
    this.peer = peer;
    let closed: (error?: Error) => void = () => {};
    this.closed = new Promise((resolve) => {
      closed = resolve;
    });
    this.channel = new Channel(
      ours,
      { received: FRONTEND_REQUESTS, sent: BACKEND_REQUESTS },
      {
        request: (message) => {
          this.requests.push({
            request: message.request,
            payload: [...new Uint8Array(message.payload.buffer)],
            fds: message.fds.length,
          });
          return answer(message, this);
        },
        closed,
      },
    );
  }

  write(bytes: Uint8Array, fds: readonly number[] = []): number {
    const memory = new NativeMemory(Math.max(bytes.length, 1));
    memory.bytes.set(bytes);
    return this.peer.send(memory, 0, bytes.length, fds);
  }

  send(request: number, view = new DataView(new ArrayBuffer(0)), fds: number[] = [], flags = 0) {
    return this.write(frame(request, new Uint8Array(view.buffer), flags), fds);
  }

  read(): number[] {
    const memory = new NativeMemory(4096);
    const fds: Fd[] = [];
    const count = this.peer.receive(memory, 0, 4096, fds);
    for (const fd of fds) fd.close();
    return [...memory.bytes.subarray(0, Math.max(count, 0))];
  }

  async until(done: () => boolean): Promise<void> {
    while (!done()) await turn();
  }

  [Symbol.dispose](): void {
    this.channel.close();
    this.peer.close();
  }
}

function frame(request: number, bytes: Uint8Array, flags = 0): Uint8Array {
  return Buffer.concat([encodeHeader(request, flags, bytes.length), bytes]);
}

// A channel keeps no process alive.
const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

t.test('messages arrive whole, however the stream is cut', async () => {
  const state = fc.record({ index: fc.nat(255), num: fc.nat(32768) });
  const cuts = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(fc.array(state, { minLength: 1, maxLength: 8 }), cuts, async (states, cut) => {
      using rig = new Rig();
      const payloads = states.map((one) => new Uint8Array(payload.writeVringNumber(one).buffer));
      const bytes = Buffer.concat(payloads.map((p) => frame(VHOST_USER_SET_VRING_NUM, p)));
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = cut[i % cut.length] ?? 1;
        rig.write(bytes.subarray(at, at + size));
        at += size;
        if (i % 3 === 0) await turn();
      }
      await rig.until(() => rig.requests.length === states.length);
      return rig.requests.every(({ payload: p }, i) => `${p}` === `${[...(payloads[i] ?? [])]}`);
    }),
    { numRuns: 50 },
  );
});

t.test('a descriptor arrives with its message, and is closed if it is not taken', async (t) => {
  const before = countFds();
  {
    using eventfd = new Eventfd();
    using rig = new Rig(({ fds }) => {
      signalEventfd(fds[0]?.fd ?? -1);
    });
    rig.send(VHOST_USER_SET_VRING_KICK, payload.writeVringFd(0, true), [eventfd.fd]);
    rig.send(VHOST_USER_SET_OWNER);
    await rig.until(() => rig.requests.length === 2);
    t.same(
      rig.requests.map(({ fds }) => fds),
      [1, 0],
    );
    t.equal(eventfd.drain(), true, 'it is the same eventfd');
  }
  await turn();
  t.equal(countFds(), before);
});

t.test('no further message is read before the answer to the last is settled', async (t) => {
  const settle: (() => void)[] = [];
  using rig = new Rig(
    () =>
      new Promise((resolve) => {
        settle.push(resolve);
      }),
  );
  rig.send(VHOST_USER_SET_OWNER);
  rig.send(VHOST_USER_GET_FEATURES);
  await rig.until(() => settle.length === 1);
  for (let i = 0; i < 5; i++) await turn();
  t.equal(rig.requests.length, 1);
  settle[0]?.();
  await rig.until(() => settle.length === 2);
  t.equal(rig.requests[1]?.request, VHOST_USER_GET_FEATURES);
  settle[1]?.();
});

t.test('REPLY_ACK: a request for it gets 0 or 1, others get no reply', async (t) => {
  using rig = new Rig((message, { channel }) => channel.acknowledge(message, message.flags < 16));
  rig.send(VHOST_USER_SET_OWNER);
  rig.send(VHOST_USER_SET_OWNER, undefined, [], VHOST_USER_NEED_REPLY_MASK);
  rig.send(VHOST_USER_SET_OWNER, undefined, [], VHOST_USER_NEED_REPLY_MASK | 16);
  await rig.until(() => rig.requests.length === 3);
  const reply = (value: number): number[] => [
    ...frame(VHOST_USER_SET_OWNER, new Uint8Array(payload.writeU64(value).buffer), 4),
  ];
  t.same(rig.read(), [...reply(0), ...reply(1)]);
});

t.test('call resolves with its reply, in the order of the questions', async (t) => {
  const [ours, theirs] = UnixSocket.pair();
  const silent = { request: () => {}, closed: () => {} };
  using front = new Channel(ours, { received: new Map(), sent: FRONTEND_REQUESTS }, silent);
  using back: Channel = new Channel(
    theirs,
    { received: FRONTEND_REQUESTS, sent: BACKEND_REQUESTS },
    {
      request: (message): void => back.reply(message, payload.writeU64(message.request * 10)),
      closed: () => {},
    },
  );
  const replies = await Promise.all([front.call(1), front.call(17), front.call(15)]);
  t.same(
    replies.map((reply) => payload.readU64(reply)),
    [10n, 170n, 150n],
  );
  const lost = front.call(VHOST_USER_GET_FEATURES);
  back.close();
  await t.rejects(lost, { message: /ended before the reply to GET_FEATURES$/ });
  await t.rejects(front.call(1), { message: /the connection is closed$/ });
});

t.test('an unsolicited reply ends the connection', async (t) => {
  using rig = new Rig();
  rig.send(VHOST_USER_GET_FEATURES, payload.writeU64(0), [], 4);
  t.match((await rig.closed)?.message, /an unsolicited reply to BACKEND_IOTLB_MSG$/);
});

const bad: Record<string, [bytes: Uint8Array, expected: RegExp]> = {
  'version 0': [Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), /version 0 in a header/],
  'an unknown request': [frame(99, new Uint8Array(0)), /request 99 is unknown/],
  'a payload that is too short': [
    frame(VHOST_USER_SET_VRING_NUM, new Uint8Array(4)),
    /SET_VRING_NUM with a payload of 4 bytes instead of 8$/,
  ],
  'a payload that is too long': [
    encodeHeader(VHOST_USER_SET_CONFIG, 0, 0xffff_ffff),
    /SET_CONFIG with a payload of 4294967295 bytes instead of 12 to 268$/,
  ],
  'a reply that is too long': [encodeHeader(1, 4, 2000), /a reply of 2000 bytes$/],
};
for (const [name, [bytes, expected]] of Object.entries(bad)) {
  t.test(`${name} ends the connection`, async (t) => {
    using rig = new Rig();
    rig.write(bytes);
    t.match((await rig.closed)?.message, expected);
    t.equal(rig.channel.open, false);
  });
}

t.test('wrong numbers of descriptors end the connection, and none leaks', async (t) => {
  const before = countFds();
  {
    using eventfd = new Eventfd();
    const many = (count: number): number[] => Array.from({ length: count }, () => eventfd.fd);
    const table = payload.writeMemoryTable([]);
    for (const [request, view, fds, expected] of [
      [VHOST_USER_SET_OWNER, undefined, 1, /SET_OWNER with 1 file descriptors instead of 0$/],
      [VHOST_USER_SET_VRING_KICK, payload.writeVringFd(0, true), 2, /2 file descriptors instead/],
      [VHOST_USER_SET_MEM_TABLE, table, MAX_FDS, undefined],
    ] as const) {
      using rig = new Rig();
      rig.send(request, view, many(fds));
      if (expected !== undefined) t.match((await rig.closed)?.message, expected);
      else await rig.until(() => rig.requests.length === 1);
    }
    using rig = new Rig();
    // More than one message may carry: two pieces of one.
    const bytes = frame(VHOST_USER_SET_MEM_TABLE, new Uint8Array(table.buffer));
    rig.write(bytes.subarray(0, 12), many(MAX_FDS));
    rig.write(bytes.subarray(12), many(1));
    t.match((await rig.closed)?.message, /more than 8 file descriptors in a message$/);
  }
  await turn();
  t.equal(countFds(), before);
});

t.test('an end between messages is no error, one within a message is', async (t) => {
  using whole = new Rig();
  whole.send(VHOST_USER_SET_OWNER);
  whole.peer.close();
  t.equal(await whole.closed, undefined);
  t.equal(whole.requests.length, 1);
  using half = new Rig();
  half.write(encodeHeader(VHOST_USER_SET_VRING_NUM, 0, 8));
  half.peer.close();
  t.match((await half.closed)?.message, /the connection ended within a message$/);
});

t.test('a peer that asks and does not read is given up', async (t) => {
  using rig = new Rig((message, { channel }) => channel.reply(message, payload.writeU64(0)));
  let open = true;
  void rig.closed.then(() => {
    open = false;
  });
  while (open) {
    rig.send(VHOST_USER_GET_FEATURES);
    await turn();
  }
  t.match((await rig.closed)?.message, /it does not read what it is sent$/);
});

t.test('whatever bytes come, the channel ends or waits, and keeps nothing', async (t) => {
  const before = countFds();
  const header = fc
    .tuple(fc.nat(45), fc.constantFrom(0, 1, 4, 8, 12), fc.nat(80))
    .map(([request, flags, size]) => encodeHeader(request, flags, size));
  const piece = fc.oneof(header, fc.uint8Array({ maxLength: 80 }));
  using eventfd = new Eventfd();
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(piece, fc.nat(9)), { minLength: 1, maxLength: 12 }),
      async (pieces) => {
        using rig = new Rig();
        for (const [bytes, fds] of pieces) {
          if (bytes.length === 0) continue;
          rig.write(
            bytes,
            Array.from({ length: Math.min(fds, MAX_FDS) }, () => eventfd.fd),
          );
          await turn();
        }
        rig.peer.close();
        await rig.closed;
      },
    ),
    { numRuns: 200 },
  );
  await turn();
  t.equal(countFds(), before + 1);
});

t.test('a call that was interrupted is made again', async (t) => {
  using rig = new Rig((message, { channel }) => channel.acknowledge(message, true));
  rig.receiveFaults.push(4, 4);
  rig.sendFaults.push(4);
  rig.send(VHOST_USER_SET_OWNER, undefined, [], VHOST_USER_NEED_REPLY_MASK);
  const memory = new NativeMemory(64);
  let count = -11;
  while (count < 0) {
    await turn();
    count = rig.peer.receive(memory, 0, 64, []);
  }
  t.equal(rig.requests.length, 1);
  t.equal(rig.channel.open, true);
});

for (const [name, errno] of [
  ['ENOBUFS', 105],
  ['ENOMEM', 12],
] as const) {
  t.test(
    `a socket that fails with ${name} ends its connection, and the errno is reported by name`,
    async (t) => {
      using receiving = new Rig();
      receiving.receiveFaults.push(errno);
      receiving.send(VHOST_USER_SET_OWNER);
      t.match(await receiving.closed, { code: name, call: 'recvmsg' });
      using sending = new Rig();
      sending.sendFaults.push(errno);
      sending.channel.send(VHOST_USER_GET_FEATURES);
      t.match(await sending.closed, { code: name, call: 'sendmsg' });
    },
  );
}
