import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { ByteRing, RegisterLock, SharedState } from '../../../src/state/shared-state.ts';
import {
  EXIT_COUNTERS,
  REQUEST_PAUSE,
  REQUEST_RUN,
  VcpuControl,
} from '../../../src/state/vcpu-control.ts';

t.test('allocators that ask for the same get the same regions', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const [one, two] = [new SharedState(buffer), new SharedState(buffer)];
  const regions = [one, two].map((state) => [state.bytes(3), state.words(5), state.bytes(100)]);
  regions[0]?.forEach((region, i) => {
    region[1] = 10 + i;
    t.equal(regions[1]?.[i]?.[1], 10 + i);
    t.equal(region.byteOffset % 64, 0, 'each on cache lines of its own');
  });
});

t.test('regions do not overlap, and start as zeros', async (t) => {
  const state = new SharedState(SharedState.allocate(0x1000));
  const regions = [1, 63, 64, 65, 7].map((length) => state.bytes(length));
  for (const region of regions) {
    t.ok(region.every((byte) => byte === 0));
    region.fill(0xff);
  }
});

t.test('a buffer that is too small is reported as a bug', async (t) => {
  const state = new SharedState(SharedState.allocate(256));
  t.throws(() => state.bytes(1024), { code: 'E_INTERNAL' });
});

t.test('vCPU requests and thread ids are seen by every thread', async (t) => {
  const buffer = SharedState.allocate(0x2000);
  const [one, two] = [0, 1].map(() => new VcpuControl(new SharedState(buffer), 2)) as [
    VcpuControl,
    VcpuControl,
  ];
  t.equal(two.request, REQUEST_RUN);
  one.request = REQUEST_PAUSE;
  t.equal(two.request, REQUEST_PAUSE);
  two.waitWhile(0);
  const first = two.ticket;
  one.request = REQUEST_RUN;
  one.request = REQUEST_PAUSE;
  t.not(two.ticket, first, 'a pause is not the one before');
  t.equal(VcpuControl.requestOf(two.ticket), REQUEST_PAUSE);
  one.setThreadId(1, 4711);
  t.same([two.threadId(0), two.threadId(1), two.threadId(2)], [0, 4711, 0]);
  const counters = one.exitCounters(1);
  counters[3] = 9;
  t.equal(two.exitCounters(1)[3], 9);
  t.equal(two.exitCounters(0)[3], 0);
  t.equal(two.exitCounters(7).length, EXIT_COUNTERS);
});

const ROUNDS = 100_000;

t.test('two threads never hold it together, and none waits forever', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const worker = new URL('./lock-worker.js', import.meta.url);
  const workerData = { buffer, rounds: ROUNDS };
  const ends = [0, 1].map(() => once(new Worker(worker, { workerData, execArgv: [] }), 'exit'));
  t.same(await Promise.all(ends), [[0], [0]]);
  const total = new SharedState(buffer).words(1);
  t.equal(total[0], 2 * ROUNDS);
});

t.test("with() returns the step's value, and unlocks when it throws", async (t) => {
  const word = new Int32Array(new SharedArrayBuffer(4));
  const lock = new RegisterLock(word);
  t.equal(
    lock.with(() => {
      t.not(word[0], 0);
      return 5;
    }),
    5,
  );
  t.equal(word[0], 0);
  t.throws(() =>
    lock.with(() => {
      throw new Error('in the step');
    }),
  );
  t.equal(word[0], 0);
});

t.test('waitWhile unlocks until another thread has changed the word', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const state = new SharedState(buffer);
  const words = state.words(2);
  words[1] = 7;
  const waiter = new Worker(new URL('./lock-worker.js', import.meta.url), {
    workerData: { buffer },
    execArgv: [],
  });
  const exit = once(waiter, 'exit');
  await once(waiter, 'message');
  // It reported with the lock held, so the lock was free only because it waits.
  state.lock.with(() => {
    t.equal(words[0], 1, 'it waits');
    words[0] = 2;
    Atomics.notify(words, 1);
  });
  state.lock.with(() => {
    words[1] = 8;
    Atomics.notify(words, 1);
  });
  t.same(await once(waiter, 'message'), [{ held: true, value: 8 }]);
  await exit;
});

// Bytes that pass from a register to its owner: bounded, and what does not fit is counted.

const SIZE = 8;

function ringsOf(): [ByteRing, ByteRing] {
  const buffer = SharedState.allocate(0x1000);
  return [new ByteRing(new SharedState(buffer), SIZE), new ByteRing(new SharedState(buffer), SIZE)];
}

t.test('what one thread puts in the other takes out, around the end of the ring', async (t) => {
  const [guest, owner] = ringsOf();
  t.same(owner.take(), { bytes: new Uint8Array(0), lost: 0 });
  for (let round = 0; round < 5; round++) {
    for (const byte of [1, 2, 3, 4, 5]) guest.push(byte + round);
    t.same(
      [...owner.take().bytes],
      [1, 2, 3, 4, 5].map((byte) => byte + round),
    );
  }
});

t.test('what there is no room for is counted, once', async (t) => {
  const [guest, owner] = ringsOf();
  for (let i = 0; i < 100_000; i++) guest.push(i);
  const taken = owner.take();
  t.same([...taken.bytes], [0, 1, 2, 3, 4, 5, 6, 7]);
  t.equal(taken.lost, 100_000 - SIZE);
  guest.push(9);
  t.same(owner.take(), { bytes: Uint8Array.of(9), lost: 0 });
});
