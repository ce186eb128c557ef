/** What every datapath in this process promises, on the main thread and in a queue worker. */
import t from 'tap';
import type { Datapath, DatapathEvents } from '../../../src/datapath/datapath.ts';
import { InProcessDatapath } from '../../../src/datapath/in-process.ts';
import { QueueWorkerDatapath } from '../../../src/datapath/queue-worker.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { createHandler, type ProbeOptions } from '../../support/fakes/handler.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

const probe = new URL('../../support/fakes/handler.js', import.meta.url).href;

const places: Record<string, (options: ProbeOptions, events: DatapathEvents) => Datapath> = {
  'in process': (options, events) => new InProcessDatapath(() => createHandler(options), events),
  'queue worker': (options, events) =>
    new QueueWorkerDatapath({ name: 'probe0', module: probe, options }, events),
};

for (const [place, open] of Object.entries(places)) {
  t.test(`${place}: each queue is kicked once after start, and on each kick`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    await datapath.start(rig.activation());
    t.same(await rig.report('start'), { what: 'start', features: 1n << 32n, queues: [0, 1] });
    t.same(await rig.report('kick'), { what: 'kick', queue: 0 });
    t.same(await rig.report('kick'), { what: 'kick', queue: 1 });
    for (let round = 0; round < 3; round++) {
      rig.kicks[1].signal();
      t.same(await rig.report('kick'), { what: 'kick', queue: 1 });
    }
    await datapath.close();
    t.same(await rig.report('stop'), { what: 'stop' });
    t.same(rig.reports, []);
  });

  t.test(`${place}: watched descriptors, interrupts, another kick, messages`, async (t) => {
    using rig = new DatapathRig();
    using watched = new Eventfd();
    const datapath = open({ watchFd: watched.fd }, rig.events);
    datapath.post('dropped, since it is not started');
    await datapath.start(rig.activation());
    await rig.report('kick');
    await rig.report('kick');
    watched.signal();
    t.same(await rig.report('ready'), { what: 'ready', token: 7, events: 1 });
    datapath.post({ any: 'thing' });
    t.same(await rig.report('echo'), { what: 'echo', message: { any: 'thing' } });
    datapath.post('again');
    t.same(await rig.report('kick'), { what: 'kick', queue: 1 });
    datapath.post('interrupt');
    datapath.post('done');
    await rig.report('echo');
    t.equal(rig.call.drain(), true, 'the call eventfd was signalled');
    await datapath.close();
  });

  t.test(`${place}: a queue that asks for another kick a thousand times gets one`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    await datapath.start(rig.activation());
    await rig.report('kick');
    await rig.report('kick');
    datapath.post('again and again');
    t.same(await rig.report('kick'), { what: 'kick', queue: 0 });
    t.same(await rig.report('kick'), { what: 'kick', queue: 1 });
    datapath.post('again and again');
    t.same(await rig.report('kick'), { what: 'kick', queue: 0 });
    t.same(await rig.report('kick'), { what: 'kick', queue: 1 });
    for (let turn = 0; turn < 3; turn++) {
      datapath.post({ turn });
      await rig.report('echo');
    }
    t.same(
      rig.reports.filter(({ kind }) => kind === 'message'),
      [{ kind: 'message', message: { what: 'start', features: 1n << 32n, queues: [0, 1] } }],
    );
    await datapath.close();
  });

  t.test(
    `${place}: positions of queues are reported while they are served, held or not`,
    async (t) => {
      using rig = new DatapathRig();
      const datapath = open({}, rig.events);
      t.same(await datapath.states?.(), new Map(), 'not started');
      const from = new Map([[1, { nextAvail: 7, nextUsed: 7 }]]);
      await datapath.start({ ...rig.activation(from), holds: new Map([[1, 0]]) });
      t.same(await datapath.states?.(), new Map([[0, { nextAvail: 0, nextUsed: 0 }], ...from]));
      await datapath.stop();
      t.same(await datapath.states?.(), new Map());
      await datapath.close();
    },
  );

  t.test(`${place}: stop returns the states, and start continues from them`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    await datapath.start(rig.activation());
    const first = await datapath.stop();
    t.same([...first.keys()], [0, 1]);
    const states = new Map(
      [...first.keys()].map((queue) => [queue, { nextAvail: 5, nextUsed: 5 }]),
    );
    // The driver's rings match, or the queue would find a jump.
    for (const { driverArea } of rig.activation().queues) {
      rig.ram.memory.writeU16(driverArea + 2, 5);
    }
    await datapath.start(rig.activation(states));
    t.same(await datapath.stop(), states);
    t.same(await datapath.stop(), new Map(), 'stopped already');
    await datapath.close();
  });

  t.test(`${place}: an exception in the data half breaks the device`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    await datapath.start(rig.activation());
    // Reports are not ordered with what breaks: the first ones may come after it.
    for (const what of ['start', 'kick', 'kick']) await rig.report(what);
    datapath.post('throw');
    const report = await rig.next(({ kind }) => kind === 'broken');
    t.match(report, {
      reason: /^the data half failed: TypeError: thrown by the probe \(.*:\d+\)$/,
    });
    const kicks = rig.reports.length;
    rig.kicks[0].signal();
    t.equal((await datapath.stop()).size, 2, 'the states are returned anyway');
    await rig.report('stop');
    t.equal(rig.reports.length, kicks, 'nothing was served meanwhile');
    await datapath.start(rig.activation());
    await datapath.close();
  });

  t.test(`${place}: a broken driver is reported once`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    await datapath.start(rig.activation());
    datapath.post('break');
    datapath.post('break');
    await datapath.stop();
    const broken = rig.reports.filter(({ kind }) => kind === 'broken');
    t.same(broken, [{ kind: 'broken', reason: 'broken by the probe' }]);
    await datapath.close();
  });

  t.test(`${place}: a queue outside of RAM fails the start`, async (t) => {
    using rig = new DatapathRig();
    const datapath = open({}, rig.events);
    const { memory, features, queues } = rig.activation();
    const outside = queues.map((queue) => ({ ...queue, deviceArea: 2 ** 40 }));
    await t.rejects(datapath.start({ memory, features, queues: outside }), { name: 'PeerError' });
    await datapath.start(rig.activation());
    await t.rejects(datapath.start(rig.activation()), { code: 'E_INTERNAL' }, 'started twice');
    await datapath.close();
  });
}
