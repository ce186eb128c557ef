/**
 * Frontends that send anything in any order: each message is well formed by itself, its content
 * is not. The backend serves the next frontend, and keeps nothing of the last.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import { VHOST_USER_NEED_REPLY_MASK } from '../../../src/abi/vhost-user.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { ringFeatures } from '../../../src/machine/devices/virtio-plan.ts';
import { ListeningBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { FRONTEND_REQUESTS } from '../../../src/vhost-user/message.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { FrontendRig, USER_ADDRESS } from '../../support/rigs/frontend.ts';

const folder = testFolder(t);
const path = join(folder, 'socket');

/** A word of a payload: plausible, or not. */
const word = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0, 1, 2, 8, 16, 0x100, 4096, 2 ** 23, USER_ADDRESS) },
  { weight: 2, arbitrary: fc.nat(2 ** 24).map((offset) => USER_ADDRESS + offset) },
  { weight: 1, arbitrary: fc.nat({ max: Number.MAX_SAFE_INTEGER }) },
);
const message = fc.record({
  rule: fc.constantFrom(...FRONTEND_REQUESTS),
  words: fc.array(word, { minLength: 34, maxLength: 34 }),
  /** Share of the room between the shortest payload and the longest. */
  size: fc.constantFrom(0, 0.12, 1),
  fds: fc.nat(8),
  kind: fc.constantFrom('eventfd', 'memory'),
  reply: fc.boolean(),
  /** Set all up as it should be before it. */
  proper: fc.integer({ min: 0, max: 9 }),
});

t.test('whatever is sent, the next one is served, and nothing leaks', async (t) => {
  const log: string[] = [];
  const features = ringFeatures({ packed: true, ringReset: false });
  const device = createRngDevice({ name: 'rng0' });
  await using exported = new BackendDevice(device, features, [64], (text) => log.push(text));
  await using _backend = new ListeningBackend(path, exported);
  using eventfd = new Eventfd();
  await turn();
  const before = readdirSync('/proc/self/fd').length;
  let turnedAway = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 12 }), async (messages) => {
      {
        using front = new FrontendRig(path);
        let alive = true;
        void front.closed.then(() => {
          alive = false;
          turnedAway++;
        });
        await front.negotiate();
        for (const { rule, words, size, fds, kind, reply, proper } of messages) {
          if (!alive) break;
          if (proper === 0) await front.startRing(0).catch(() => {});
          const [request, { size: range, fds: wanted }] = rule;
          const length = Math.floor((range[0] + (range[1] - range[0]) * size) / 4) * 4;
          const view = new DataView(new ArrayBuffer(8 * words.length));
          for (const [i, value] of words.entries()) view.setBigUint64(i * 8, BigInt(value), true);
          const fd = kind === 'eventfd' ? eventfd.fd : front.ram.memory.share.fd;
          const count = Math.min(Math.max(fds, wanted[0]), wanted[1]);
          const list = Array.from({ length: count }, () => fd);
          const payload = new DataView(view.buffer, 0, Math.max(length, range[0]));
          front.channel.send(request, reply ? VHOST_USER_NEED_REPLY_MASK : 0, payload, list);
          await turn();
        }
        front.ram.memory.writeU32(4096, 0xffff_ffff);
        await turn();
      }
      for (let i = 0; i < 8; i++) await turn();
    }),
    { numRuns: 80, seed: 20261121 },
  );
  const front = new FrontendRig(path);
  await front.negotiate();
  const { queue, kick } = await front.startRing(0);
  queue.add({ writable: [64] });
  if (queue.kick()) kick.signal();
  while (queue.completed().length === 0) await turn();
  t.ok(turnedAway > 20, 'many broke a rule');
  t.ok(log.length <= 8, `${log.length} lines`);
  t.ok(
    log.every((text) => !text.includes('\n') && /^rng0: (disconnected|stopped): /.test(text)),
    'each was reported in one line',
  );
  front[Symbol.dispose]();
  for (let i = 0; i < 8; i++) await turn();
  t.equal(readdirSync('/proc/self/fd').length, before);
});
