import { spawnSync } from 'node:child_process';
import t from 'tap';
import { Eventfd } from '../../../src/host/fd.ts';
import { LOOP_READABLE, LOOP_WRITABLE, LoopWatch } from '../../../src/host/main-loop.ts';

const modules = new URL('../../../src/host/', import.meta.url).href;

/** A watch does not keep the process alive; a test that waits for one has to. */
function alive(t: Tap): void {
  const timer = setTimeout(() => t.fail('nothing happened'), 10_000);
  t.teardown(() => clearTimeout(timer));
}

type Tap = typeof t;

t.test('a watch calls back until it is closed', async (t) => {
  alive(t as Tap);
  using event = new Eventfd();
  const seen: number[] = [];
  let next: () => void = () => undefined;
  const watch = new LoopWatch(event.fd, LOOP_READABLE, (events) => {
    seen.push(events);
    event.drain();
    next();
  });
  for (let i = 0; i < 3; i++) {
    const called = new Promise<void>((resolve) => {
      next = resolve;
    });
    event.signal();
    // Resolved in the callback: that must not wait for some other event.
    await called;
  }
  t.same(seen, [LOOP_READABLE, LOOP_READABLE, LOOP_READABLE]);
  watch.close();
});

t.test('events can be changed, and switched off', async (t) => {
  alive(t as Tap);
  using event = new Eventfd();
  const seen: number[] = [];
  let next: () => void = () => undefined;
  const called = () =>
    new Promise<void>((resolve) => {
      next = resolve;
    });
  using watch = new LoopWatch(event.fd, 0, (events) => {
    seen.push(events);
    watch.set(0);
    next();
  });
  watch.set(LOOP_WRITABLE);
  await called();
  event.signal();
  watch.set(LOOP_READABLE | LOOP_WRITABLE);
  await called();
  t.same(seen, [LOOP_WRITABLE, LOOP_READABLE | LOOP_WRITABLE]);
});

t.test('a watch neither keeps the process alive nor hides exceptions', async (t) => {
  const script = (body: string) => `
    import { Eventfd } from '${modules}fd.js';
    import { LoopWatch } from '${modules}main-loop.js';
    const event = new Eventfd();
    ${body}`;
  const run = (body: string) =>
    spawnSync(process.execPath, ['--input-type=module', '-e', script(body)], {
      encoding: 'utf8',
      timeout: 20_000,
    });
  t.equal(run('new LoopWatch(event.fd, 1, () => {})').status, 0);
  const thrown = run(`
    new LoopWatch(event.fd, 1, () => { throw new Error('on purpose') });
    event.signal();
    setTimeout(() => {}, 10_000)`);
  t.match(thrown, { status: 1, stderr: /on purpose/ });
});

t.test('a closed watch is silent even when its descriptor was ready', async (t) => {
  using event = new Eventfd();
  const watch = new LoopWatch(event.fd, LOOP_READABLE, () => t.fail('called'));
  event.signal();
  watch.close();
  // Two turns of the loop, with a look at the descriptors between them.
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
});
