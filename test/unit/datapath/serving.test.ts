import t from 'tap';
import { Serving } from '../../../src/datapath/serving.ts';
import { describeError } from '../../../src/host/errors.ts';
import type { HandlerContext, QueueHandler } from '../../../src/virtio/device.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

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
  const serving = new Serving(handler, rig.activation(), {
    reactor: { watch: (...all) => watched.push(all) },
    kickAgain: () => undefined,
    broken: (reason) => reasons.push(reason),
    log: () => undefined,
    post: () => undefined,
  });
  context?.reactor.watch(5, 1, 2);
  context?.broken('first');
  context?.broken('second');
  context?.reactor.watch(6, 1, 3);
  context?.reactor.watch(5, 0, 2);
  serving.ready(2, 1);
  t.same(watched, [
    [5, 1, 2],
    [5, 0, 2],
  ]);
  t.same(reasons, ['first']);
  t.equal(serving.failed(new Error('late')), false, 'not the handler’s fault any more');
});

t.test('errors are told in one line, with their place', async (t) => {
  t.match(
    describeError(new RangeError('two\nlines')),
    /^RangeError: two \(\S*serving\.test\.[jt]s:\d+\)$/,
  );
  t.equal(describeError('text'), 'text');
});
