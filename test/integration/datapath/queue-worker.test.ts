/** What a queue worker does as a thread: it ends by itself, and its death is noticed. */
import { spawnSync } from 'node:child_process';
import { setImmediate } from 'node:timers/promises';
import t from 'tap';
import { QueueWorkerDatapath } from '../../../src/datapath/queue-worker.ts';
import { threadState } from '../../../src/host/threads.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

const probe = new URL('../../support/fakes/handler.js', import.meta.url).href;
const rigModule = new URL('../../support/rigs/datapath.js', import.meta.url).href;
const workerModule = new URL('../../../src/datapath/queue-worker.js', import.meta.url).href;

t.test('close ends a thread that was never started, or is blocked', async (t) => {
  using rig = new DatapathRig();
  const idle = new QueueWorkerDatapath({ name: 'idle', module: probe, options: {} }, rig.events);
  await idle.close();
  const busy = new QueueWorkerDatapath({ name: 'busy', module: probe, options: {} }, rig.events);
  await busy.start(rig.activation());
  await busy.close();
  await busy.close();
  t.same(await rig.report('stop'), { what: 'stop' });
});

t.test('its thread is known, and blocked while nothing is to be done', async (t) => {
  using rig = new DatapathRig();
  const datapath = new QueueWorkerDatapath(
    { name: 'waits', module: probe, options: {} },
    rig.events,
  );
  await datapath.start(rig.activation());
  t.not(datapath.threadId, process.pid);
  while (threadState(datapath.threadId) !== 'blocked') await setImmediate();
  await datapath.close();
  t.equal(datapath.threadId, 0);
});

t.test('a thread that dies breaks the device, and the next start makes another', async (t) => {
  using rig = new DatapathRig();
  const datapath = new QueueWorkerDatapath(
    { name: 'mortal', module: probe, options: {} },
    rig.events,
  );
  await datapath.start(rig.activation());
  datapath.post('die');
  const report = await rig.next(({ kind }) => kind === 'broken');
  t.match(report, { reason: 'the queue worker ended unexpectedly' });
  t.same(await datapath.stop(), new Map(), 'its states are lost');
  rig.reports.length = 0;
  await datapath.start(rig.activation());
  await rig.report('start');
  await datapath.close();
});

t.test('a thread that dies during a stop counts as stopped', async (t) => {
  using rig = new DatapathRig();
  const spec = { name: 'mortal', module: probe, options: {} };
  const datapath = new QueueWorkerDatapath(spec, rig.events);
  await datapath.start(rig.activation());
  datapath.post('die');
  t.same(await datapath.stop(), new Map());
  await datapath.close();
});

t.test('a module that cannot be loaded fails the start', async (t) => {
  using rig = new DatapathRig();
  const module = new URL('./no-such-module.js', import.meta.url).href;
  const datapath = new QueueWorkerDatapath({ name: 'none', module, options: {} }, rig.events);
  await t.rejects(datapath.start(rig.activation()), { message: /no-such-module/ });
  await datapath.close();
});

t.test('ready waits for the module, but not for a start', async (t) => {
  using rig = new DatapathRig();
  const spec = { name: 'early', module: probe, options: {} };
  const datapath = new QueueWorkerDatapath(spec, rig.events);
  await datapath.ready();
  while (threadState(datapath.threadId) !== 'blocked') await setImmediate();
  t.same(rig.reports, []);
  await datapath.close();
  const module = new URL('./no-such-module.js', import.meta.url).href;
  const none = new QueueWorkerDatapath({ name: 'none', module, options: {} }, rig.events);
  await t.rejects(none.ready(), { message: /no-such-module/ });
  await none.close();
});

for (const [how, end, status] of [
  ['process.exit', 'process.exit(7)', 7],
  ['an uncaught exception', "setImmediate(() => { throw new Error('on purpose') })", 1],
  ['nothing left to do', '', 0],
] as const) {
  t.test(`a blocked worker does not hold up the end of the process: ${how}`, async (t) => {
    const script = `
      import { QueueWorkerDatapath } from ${JSON.stringify(workerModule)};
      import { DatapathRig } from ${JSON.stringify(rigModule)};
      const rig = new DatapathRig();
      const spec = { name: 'left', module: ${JSON.stringify(probe)}, options: {} };
      const datapath = new QueueWorkerDatapath(spec, rig.events);
      await datapath.start(rig.activation());
      ${end}
    `;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 20_000,
      encoding: 'utf8',
    });
    t.equal(run.signal, null, 'it ended by itself');
    t.equal(run.status, status, run.stderr);
  });
}
