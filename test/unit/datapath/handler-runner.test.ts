import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { HandlerRunner, type RunnerHost } from '../../../src/datapath/handler-runner.ts';
import { describeError } from '../../../src/host/errors.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import type { ActiveQueue } from '../../../src/virtio/active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../../src/virtio/device.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

/** A thread that does nothing by itself. */
function host(own: Partial<RunnerHost> = {}): RunnerHost {
  return {
    reactor: { watch: () => undefined },
    kickAgain: () => undefined,
    broken: () => undefined,
    log: () => undefined,
    post: () => undefined,
    ...own,
  };
}

t.test('a broken device watches no descriptor any more', async (t) => {
  using rig = new DatapathRig();
  const watched: number[][] = [];
  const reasons: string[] = [];
  let context: HandlerContext | undefined;
  const handler: QueueHandler = {
    start: (given) => {
      context = given;
    },
    kick: () => undefined,
    ready: () => t.fail('served'),
    stop: () => undefined,
  };
  const runner = new HandlerRunner(
    () => handler,
    host({
      reactor: { watch: (...all) => watched.push(all) },
      broken: (reason) => reasons.push(reason),
    }),
  );
  runner.start(rig.activation());
  context?.reactor.watch(5, 1, 2);
  context?.broken('first');
  context?.broken('second');
  context?.reactor.watch(6, 1, 3);
  context?.reactor.watch(5, 0, 2);
  runner.ready(2, 1);
  t.same(watched, [
    [5, 1, 2],
    [5, 0, 2],
  ]);
  t.same(reasons, ['first']);
  t.equal(runner.failed(new Error('late')), false, 'not the handler’s fault any more');
});

t.test(
  'one data half lives from start to start, is reset, and replaced once it threw',
  async (t) => {
    using rig = new DatapathRig();
    const calls: string[] = [];
    const failures: string[] = [];
    let made = 0;
    let throws = '';
    const runner = new HandlerRunner(
      () => {
        const own = ++made;
        const called = (what: string): void => {
          calls.push(`${what} ${own}`);
          if (throws === what) throw new Error(what);
        };
        return {
          start: () => called('start'),
          kick: () => undefined,
          ready: () => called('ready'),
          stop: () => called('stop'),
          reset: () => called('reset'),
        };
      },
      host({ broken: (reason) => failures.push(reason), log: (text) => failures.push(text) }),
    );
    runner.reset();
    t.equal(made, 0, 'nothing to reset before the first start');
    runner.start(rig.activation());
    t.throws(() => runner.start(rig.activation()), { name: 'InternalError' });
    runner.start({ ...rig.activation(runner.stop()) });
    runner.stop();
    runner.reset();
    t.same(calls.splice(0), ['start 1', 'stop 1', 'start 1', 'stop 1', 'reset 1']);
    t.same(failures, []);
    runner.start(rig.activation());
    throws = 'ready';
    try {
      runner.ready(0, 1);
    } catch (error) {
      t.equal(runner.failed(error), true);
    }
    throws = '';
    runner.stop();
    runner.reset();
    runner.start(rig.activation());
    throws = 'stop';
    runner.stop();
    throws = '';
    runner.start(rig.activation());
    runner.stop();
    throws = 'reset';
    runner.reset();
    throws = '';
    runner.start(rig.activation());
    runner.stop();
    t.same(calls, [
      ...['start 1', 'ready 1', 'stop 1'],
      ...['start 2', 'stop 2'],
      ...['start 3', 'stop 3', 'reset 3'],
      ...['start 4', 'stop 4'],
    ]);
    t.match(failures, [/data half failed: .*ready/, /stopping failed/, /resetting failed/]);
  },
);

t.test(
  'what was published between the last look and the request for kicks is served',
  async (t) => {
    for (const bits of [[], [VIRTIO_F_EVENT_IDX], [VIRTIO_F_RING_PACKED]]) {
      using ram = new Ram(MiB);
      const features = featureSet(VIRTIO_F_VERSION_1, ...bits);
      const driver = createDriverQueue(new GuestHeap(ram.memory, 4096, MiB), { size: 8, features });
      const kicked: number[] = [];
      const again: number[] = [];
      let queue: ActiveQueue | undefined;
      const handler: QueueHandler = {
        start: ({ queues: [first] }) => {
          queue = first;
        },
        kick: (index) => {
          kicked.push(index);
          queue?.serve(8, () => 0);
        },
        stop: () => undefined,
      };
      const runner = new HandlerRunner(
        () => handler,
        host({ kickAgain: (index) => again.push(index) }),
      );
      runner.start({ memory: ram.memory.share, features, queues: [driver.config] });
      runner.suppressKicks(true);
      runner.poll();
      kicked.length = 0;
      t.equal(runner.poll(), false);
      driver.add({ writable: [4] });
      t.equal(driver.kick(), false);
      t.equal(runner.poll(), true, 'seen without a kick');
      t.equal(runner.poll(), false, 'once');
      t.same(kicked, [0]);
      driver.add({ writable: [4] });
      t.equal(driver.kick(), false, 'after the last look');
      runner.suppressKicks(false);
      t.same(again, [0], 'the thread does not sleep before it has served this');
      runner.kick(0);
      t.equal(driver.completed().length, 2);
      driver.add({ writable: [4] });
      t.equal(driver.kick(), true, 'and from now on it is kicked');
      runner.stop();
    }
  },
);

t.test('errors are reported in one line, with their place', async (t) => {
  t.match(
    describeError(new RangeError('two\nlines')),
    /^RangeError: two \(\S*handler-runner\.test\.[jt]s:\d+\)$/,
  );
  t.equal(describeError('text'), 'text');
});
