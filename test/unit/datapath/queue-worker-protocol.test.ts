/** Messages between threads: at most one batch is in flight. */
import t from 'tap';
import { QueueWorkerDatapath } from '../../../src/datapath/queue-worker.ts';
import { LatestMessages } from '../../../src/datapath/queue-worker-protocol.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

t.test('while a batch is in flight, the last of each key waits', async (t) => {
  const sent: (readonly unknown[])[] = [];
  const messages = new LatestMessages((batch) => sent.push(batch));
  messages.post('a0', 'a');
  for (let i = 1; i <= 1000; i++) {
    messages.post(`a${i}`, 'a');
    messages.post(`b${i}`, 'b');
  }
  t.same(sent.splice(0), [['a0']]);
  messages.taken();
  t.same(sent.splice(0), [['a1000', 'b1000']]);
  messages.post('a', 'a');
  messages.flush();
  t.same(sent.splice(0), [['a']], 'sent before an order that follows');
  messages.post('b', 'b');
  messages.taken();
  t.same(sent, [], 'two batches were in flight');
  messages.taken();
  t.same(sent, [['b']]);
});

for (const eventLoop of [false, true]) {
  const turns = eventLoop ? 'that turns an event loop' : 'that blocks';
  t.test(`a data half ${turns} is held to two messages`, async (t) => {
    using rig = new DatapathRig();
    const module = `data:text/javascript,
      export const eventLoop = ${eventLoop};
      export function createHandler() {
        let context;
        return {
          start(one) { context = one; },
          kick(queue) {
            if (queue === 0) for (let i = 0; i < 10000; i++) context.post(i);
          },
          ready() {},
          message(message) { context.post(message, 'echo'); },
          stop() {},
        };
      }`;
    const spec = { name: 'loud0', module: module.replace(/\s+/g, ' '), options: {} };
    const datapath = new QueueWorkerDatapath(spec, rig.events);
    await datapath.start(rig.activation());
    for (let i = 0; i < 1000; i++) datapath.post(i);
    await datapath.stop();
    const report = rig.reports.flatMap((one) => (one.kind === 'message' ? [one.message] : []));
    t.same(report.slice(0, 1), [0]);
    t.ok(report.includes(9999), 'the last one arrives');
    t.ok(report.includes(999), 'the last one of the other way, too');
    t.ok(report.length <= 6, `${report.length} messages`);
    await datapath.close();
  });
}
