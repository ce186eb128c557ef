/**
 * Fuzz target: backends of nodevmm's vhost-user devices that answer anything, at any moment: other
 * bytes, descriptors, requests of their own, rings that make no sense, or nothing at all.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import * as vu from '../../src/abi/vhost-user.ts';
import { featureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { messageOf } from '../../src/host/errors.ts';
import { NativeMemory } from '../../src/host/native-memory.ts';
import { VhostUserRig } from '../../src/testing/vhost-user-rig.ts';
import type { Channel } from '../../src/vhost-user/channel.ts';
import type { FrontendSession } from '../../src/vhost-user/frontend/frontend-session.ts';
import { VhostUserDevice } from '../../src/vhost-user/frontend/vhost-user-device.ts';
import { FRONTEND_REQUESTS, type Message } from '../../src/vhost-user/message.ts';
import { blkKind } from '../../src/virtio/device/blk/frontend-blk.ts';
import { netKind } from '../../src/virtio/device/net/frontend-net.ts';
import { otherKind } from '../../src/virtio/frontend-device.ts';
import { FakeBackend } from '../support/fakes/backend.ts';
import { type FileKind, fileKind, PeerFiles } from './peer-files.ts';
import { Belongings, checkLines, type FuzzSubject, type FuzzTarget, inTime } from './target.ts';

/** For each answer of a backend that may withhold it: short, since inputs wait for it often. */
const TIMEOUT_MS = 60;
/** For one that answers everything: none, so that a busy host makes no difference. */
const NO_TIMEOUT_MS = 2 ** 31 - 1;
const KINDS = {
  other: (session: FrontendSession) =>
    otherKind(session, { deviceId: 42, queues: 2, queueSize: 64, configSize: 8 }),
  blk: (session: FrontendSession) => blkKind('test0', session, undefined, 64),
  net: (session: FrontendSession) => netKind(session, { pairs: 1, seed: 's', queueSize: 64 }),
};

const KIND_NAMES = ['other', 'blk', 'net'] as const;

const word = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom(0n, 1n, 2n, 8n, 0x8000n, 4096n, 0xffff_ffffn) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const files = fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, fc.nat(8));

/** What is done instead of the answer that is due, or after it. */
const reaction = fc.record({
  /** Which request it reacts to, counted from 0. */
  at: fc.nat(40),
  /** Answer properly first. */
  properly: fc.boolean(),
  act: fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('answer' as const),
        as: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, fc.nat(45)),
        words: fc.array(word, { minLength: 1, maxLength: 8 }),
        bytes: fc.oneof({ weight: 5, arbitrary: fc.constant(8) }, fc.nat(300)),
        flags: fc.oneof(
          { weight: 6, arbitrary: fc.constant(vu.VHOST_USER_REPLY_MASK) },
          fc.nat(0xffff_ffff),
        ),
        files,
        kind: fileKind,
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('bytes' as const),
        bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('leave' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('nothing' as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('request' as const),
        request: fc.nat(12),
        words: fc.array(word, { minLength: 1, maxLength: 4 }),
        bytes: fc.oneof(fc.constant(0), fc.nat(40)),
        files,
        kind: fileKind,
      }),
    },
  ),
});
type Reaction = typeof reaction extends fc.Arbitrary<infer T> ? T : never;

/** What happens between the device's start and its end. */
const event = fc.oneof(
  fc.record({
    do: fc.constant('scribble' as const),
    queue: fc.nat(1),
    area: fc.constantFrom('descriptorArea' as const, 'driverArea' as const, 'deviceArea' as const),
    at: fc.nat(64),
    value: fc.nat(0xffff),
  }),
  fc.record({ do: fc.constant('buffer' as const), queue: fc.nat(1) }),
  fc.record({ do: fc.constant('die' as const) }),
  fc.record({ do: fc.constant('restart' as const) }),
  fc.record({ do: fc.constant('reset' as const) }),
  fc.record({ do: fc.constant('configure' as const), offset: fc.nat(7) }),
  fc.record({ do: fc.constant('wait' as const), turns: fc.nat(6) }),
);

const input = fc.record({
  kind: fc.constantFrom(...KIND_NAMES),
  packed: fc.boolean(),
  protocol: fc.oneof(fc.constant(0x1_b229), fc.nat(0x1_ffff)),
  config: fc.uint8Array({ maxLength: 64 }),
  reactions: fc.array(reaction, { maxLength: 4 }),
  events: fc.array(event, { maxLength: 8 }),
});
type Input = typeof input extends fc.Arbitrary<infer T> ? T : never;

const payloadOf = (words: readonly bigint[], bytes: number): DataView<ArrayBuffer> => {
  const all = BigUint64Array.from(
    { length: Math.ceil(bytes / 8) },
    (_, i) => words[i % words.length] ?? 0n,
  );
  return new DataView(all.buffer, 0, bytes);
};

function react(
  backend: FakeBackend,
  open: PeerFiles,
  { act }: Reaction,
  message: Message,
  channel: Channel,
): void {
  const fds = (count: number, kind: FileKind): number[] =>
    Array.from({ length: count }, () => open.get(kind));
  switch (act.do) {
    case 'answer':
      channel.send(
        act.as === 0 ? message.request : act.as,
        act.flags,
        payloadOf(act.words, act.bytes),
        fds(act.files, act.kind),
      );
      return;
    case 'bytes': {
      const native = new NativeMemory(act.bytes.length);
      native.bytes.set(act.bytes);
      backend.socket?.send(native, 0, act.bytes.length, []);
      return;
    }
    case 'leave':
      channel.close();
      return;
    case 'request':
      backend.requests?.send(
        act.request,
        0,
        payloadOf(act.words, act.bytes),
        fds(act.files, act.kind),
      );
  }
}

class Subject implements FuzzSubject<Input> {
  readonly #folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-fuzz-'));
  #belongings: Belongings | undefined;

  async open(): Promise<void> {
    const proper = { packed: false, protocol: 0x1_b229, config: new Uint8Array(64), reactions: [] };
    for (const kind of KIND_NAMES) {
      const life = this.#live({ ...proper, kind, events: [{ do: 'restart' }] });
      const lines = await inTime(life, 'the device');
      if (lines.length > 0) throw new Error(`with a proper backend: ${lines.join(' | ')}`);
    }
    this.#belongings = await Belongings.atRest();
  }

  async run(one: Input): Promise<void> {
    checkLines(await inTime(this.#live(one), 'the device'), /^.+$/);
    await this.#belongings?.settled();
  }

  /** A device's whole life. @returns the lines that were reported */
  async #live({ kind, packed, protocol, config, reactions, events }: Input): Promise<string[]> {
    const socket = path.join(this.#folder, 's');
    using backend = new FakeBackend(socket);
    using open = new PeerFiles(4096, 4096, 0);
    if (packed) backend.features |= featureSet(VIRTIO_F_RING_PACKED);
    backend.protocolFeatures = BigInt(protocol);
    backend.config = config;
    let count = 0;
    for (const request of FRONTEND_REQUESTS.keys()) {
      backend.acts.set(request, (message, channel) => {
        const at = count++;
        const due = reactions.filter((one) => one.at === at);
        if (due.every(({ properly }) => properly)) backend.answer(message, channel);
        for (const one of due) react(backend, open, one, message, channel);
      });
    }
    const timeoutMs = reactions.length === 0 ? NO_TIMEOUT_MS : TIMEOUT_MS;
    const address = { socket, server: false, timeoutMs };
    const lines: string[] = [];
    const trying = async (work: () => Promise<unknown>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        lines.push(messageOf(error));
      }
    };
    const device = await VhostUserDevice.open('test0', address, KINDS[kind]).catch(
      (error: unknown) => void lines.push(messageOf(error)),
    );
    if (device === undefined) return lines;
    await using rig = new VhostUserRig(device);
    const features = featureSet(VIRTIO_F_VERSION_1, ...(packed ? [VIRTIO_F_RING_PACKED] : []));
    await trying(() => rig.start(features, 16));
    for (const one of events) {
      switch (one.do) {
        case 'scribble': {
          const area = rig.queues[one.queue]?.[one.area];
          if (area !== undefined && one.at + 2 <= area.byteLength)
            area.setUint16(one.at, one.value, true);
          break;
        }
        case 'buffer':
          if ((rig.queues[one.queue]?.free ?? 0) > 1) rig.add(one.queue, { writable: [64] });
          break;
        case 'die':
          backend.die();
          backend.listen();
          break;
        case 'restart': {
          const states = await rig.stop();
          await trying(() => rig.resume(features, states));
          break;
        }
        case 'reset':
          await rig.stop();
          device.reset();
          await trying(() => rig.resume(features));
          break;
        case 'configure':
          device.configWritten(one.offset, 1);
          break;
        case 'wait':
          for (let i = 0; i < one.turns; i++) await turn();
      }
    }
    await rig.stop();
    await turn();
    return [...lines, ...rig.broken, ...rig.logs];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.#folder, { recursive: true });
  }
}

/** `npm run fuzz -- vhost-user-frontend`. */
export const vhostUserFrontend: FuzzTarget<Input> = {
  name: 'vhost-user-frontend',
  input,
  open: async () => {
    const subject = new Subject();
    await subject.open();
    return subject;
  },
};
