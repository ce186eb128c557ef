/**
 * Fuzz target: frontends of `nodevmm serve` that send anything. A proper conversation is the
 * ground; messages, descriptors, rings, the record of what is in flight and the length of files are
 * wrong in it here and there.
 */
import { ftruncateSync, mkdtempSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import {
  VHOST_USER_GET_FEATURES,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_VERSION,
} from '../../src/abi/vhost-user.ts';
import { deviceShape } from '../../src/machine/devices/virtio-plan.ts';
import { ListeningBackend } from '../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../src/vhost-user/backend/backend-device.ts';
import { FRONTEND_REQUESTS } from '../../src/vhost-user/message.ts';
import { createBlkDevice } from '../../src/virtio/device/blk/blk.ts';
import { createRngDevice } from '../../src/virtio/device/rng/rng.ts';
import { FrontendRig } from '../support/rigs/frontend.ts';
import { type FileKind, fileKind } from './peer-files.ts';
import { MEMORY_BYTES, RawFrontend, RECORD_BYTES, USER } from './raw-frontend.ts';
import { Belongings, checkLines, type FuzzSubject, type FuzzTarget, inTime } from './target.ts';

/** A number in a message: plausible, or not. */
const word = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(0n, 1n, 2n, 8n, 16n, 64n, 0x100n, 4096n, 2n ** 20n, USER),
  },
  { weight: 3, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 21n }).map((offset) => USER + offset) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);

const message = fc.record({
  do: fc.constant('say' as const),
  request: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...FRONTEND_REQUESTS.keys()) },
    { weight: 1, arbitrary: fc.nat(0xffff_ffff) },
  ),
  words: fc.array(word, { minLength: 1, maxLength: 34 }),
  /** Of its payload: as its kind demands, or any. */
  bytes: fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom('least', 'most') },
    { weight: 1, arbitrary: fc.nat(272) },
  ),
  /** The payload's length in the header, if not the true one. */
  announced: fc.oneof(
    { weight: 12, arbitrary: fc.constant(0) },
    fc.integer({ min: -9, max: 2048 }),
  ),
  flags: fc.oneof(
    { weight: 6, arbitrary: fc.constant(VHOST_USER_VERSION) },
    { weight: 6, arbitrary: fc.constant(VHOST_USER_VERSION | VHOST_USER_NEED_REPLY_MASK) },
    { weight: 1, arbitrary: fc.nat(0xffff_ffff) },
  ),
  files: fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom('least', 'most') },
    { weight: 1, arbitrary: fc.nat(8) },
  ),
  kind: fileKind,
});

const place = fc.oneof(fc.nat(0x3000), fc.nat(MEMORY_BYTES - 4));
const ring = fc.nat(2);
const step = fc.oneof(
  { weight: 8, arbitrary: message },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('set up' as const),
      ring,
      size: fc.constantFrom(1, 4, 16, 64, 63),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('buffers' as const),
      ring,
      words: fc.array(word, { minLength: 1, maxLength: 4 }),
      flags: fc.array(fc.nat(7), { minLength: 4, maxLength: 4 }),
      ahead: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 1, max: 4 }) }, fc.nat(0xffff)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('memory' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('scribble' as const),
      at: place,
      value: fc.nat(0xffff),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('record' as const),
      at: fc.nat(RECORD_BYTES - 2),
      value: fc.oneof(fc.nat(3), fc.nat(0xffff)),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('truncate' as const),
      kind: fc.constantFrom<FileKind>('memory', 'record'),
      size: fc.constantFrom(0, 4096, 0x2000),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('bytes' as const),
      bytes: fc.uint8Array({ maxLength: 40 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('wait' as const), turns: fc.nat(4) }) },
);

const input = fc.record({
  device: fc.constantFrom('rng', 'blk'),
  /** The proper beginning. */
  packed: fc.boolean(),
  recorded: fc.boolean(),
  begun: fc.oneof({ weight: 5, arbitrary: fc.constant(true) }, fc.constant(false)),
  steps: fc.array(step, { minLength: 1, maxLength: 25 }),
});
type Input = typeof input extends fc.Arbitrary<infer T> ? T : never;
type Step = Input['steps'][number];

function act(front: RawFrontend, one: Step, packed: boolean): void {
  switch (one.do) {
    case 'say': {
      const rule = FRONTEND_REQUESTS.get(one.request);
      const range = (values: readonly [number, number] | undefined, which: string): number =>
        values?.[which === 'least' ? 0 : 1] ?? 8;
      const bytes = typeof one.bytes === 'number' ? one.bytes : range(rule?.size, one.bytes);
      const files = typeof one.files === 'number' ? one.files : range(rule?.fds, one.files);
      front.say(one.request, one.flags, one.words, bytes, one.announced, one.kind, files);
      return;
    }
    case 'set up':
      front.setUpRing(one.ring, one.size, packed);
      return;
    case 'buffers':
      front.makeAvailable(one.ring, packed, one.words, one.flags, one.ahead);
      return;
    case 'memory':
      front.shareMemory();
      return;
    case 'scribble':
      writeSync(front.files.get('memory'), Uint16Array.of(one.value), 0, 2, one.at);
      return;
    case 'record':
      writeSync(front.files.get('record'), Uint16Array.of(one.value), 0, 2, one.at);
      return;
    case 'truncate':
      ftruncateSync(front.files.get(one.kind), one.size);
      return;
    case 'bytes':
      front.send(one.bytes, []);
  }
}

class Subject implements FuzzSubject<Input> {
  readonly #folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-fuzz-'));
  readonly #lines: string[] = [];
  readonly #owned: AsyncDisposable[] = [];
  #belongings: Belongings | undefined;
  #runs = 0;

  async open(): Promise<void> {
    const disk = path.join(this.#folder, 'disk');
    writeFileSync(disk, new Uint8Array(2 ** 20));
    const devices = {
      rng: createRngDevice({ name: 'rng' }),
      blk: createBlkDevice({ name: 'blk', path: disk, queues: 2 }),
    };
    for (const [name, device] of Object.entries(devices)) {
      const { features, queueSizes } = deviceShape(device, { packed: true, ringReset: false });
      const log = (line: string): void => void this.#lines.push(line);
      const exported = new BackendDevice(device, features, queueSizes, log);
      this.#owned.unshift(new ListeningBackend(path.join(this.#folder, name), exported), exported);
    }
    // Threads and polls that are made once.
    for (const name of ['rng', 'blk']) await this.#isServed(name);
    this.#belongings = await Belongings.atRest();
  }

  async run({ device, packed, recorded, begun, steps }: Input): Promise<void> {
    {
      using front = new RawFrontend(path.join(this.#folder, device));
      if (begun) front.begin(packed, recorded, device === 'blk' ? 2 : 1);
      for (const one of steps) {
        if (one.do === 'wait') for (let i = 0; i < one.turns; i++) await turn();
        else act(front, one, packed);
        front.drain();
      }
    }
    {
      // The next frontend is answered when this one is done.
      using next = new FrontendRig(path.join(this.#folder, device));
      await inTime(next.channel.call(VHOST_USER_GET_FEATURES), 'the session');
    }
    await this.#belongings?.settled();
    checkLines(this.#lines.splice(0), /^(rng|blk): (disconnected|stopped): /);
    if (++this.#runs % 16 === 0) await this.#isServed(device);
  }

  /** @throws Error unless a proper frontend is served */
  async #isServed(name: string): Promise<void> {
    using front = new FrontendRig(path.join(this.#folder, name));
    await inTime(front.negotiate(), `${name}'s negotiation`);
    const { queue, kick } = await inTime(front.startRing(0), `${name}'s ring`);
    // To a disk it is a request of a type that no device knows.
    queue.add({ readable: name === 'blk' ? [new Uint8Array(16).fill(0x55)] : [], writable: [8] });
    if (queue.kick()) kick.signal();
    const used = async (): Promise<void> => {
      while (queue.completed().length === 0) await turn();
    };
    await inTime(used(), `${name}'s buffer`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#owned) await one[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true });
  }
}

/** `npm run fuzz -- vhost-user-backend`. */
export const vhostUserBackend: FuzzTarget<Input> = {
  name: 'vhost-user-backend',
  input,
  open: async () => {
    const subject = new Subject();
    await subject.open();
    return subject;
  },
};
