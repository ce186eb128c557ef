import t from 'tap';
import { HandlerRunner, type RunnerHost } from '../../../src/datapath/handler-runner.ts';
import { describeError } from '../../../src/host/errors.ts';
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

t.test('errors are reported in one line, with their place', async (t) => {
  t.match(
    describeError(new RangeError('two\nlines')),
    /^RangeError: two \(\S*handler-runner\.test\.[jt]s:\d+\)$/,
  );
  t.equal(describeError('text'), 'text');
});
