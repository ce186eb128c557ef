import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import t from 'tap';

const WORKERS = 20;
const module = (name: string): string =>
  JSON.stringify(new URL(`../../../src/host/${name}.js`, import.meta.url).href);

/** A thread that makes system calls, then ends of itself. */
async function run(script: string): Promise<void> {
  const code = `Promise.all([import(${module('syscall')}), import(${module('threads')})])
    .then(([sys, memory]) => { ${script} })`;
  const worker = new Worker(code, { eval: true });
  await new Promise<void>((resolve, reject) => {
    worker.on('error', reject);
    worker.on('exit', () => resolve());
  });
}

/** Guard pages: one below each stack of calls, and below each of the C library's. */
async function guardPages(): Promise<number> {
  await delay(300);
  const lines = readFileSync('/proc/self/maps', 'latin1').split('\n');
  return lines.filter((line) => {
    const [range = '', permissions] = line.split(' ');
    const [start = 0, end = 0] = range.split('-').map((address) => Number.parseInt(address, 16));
    return permissions === '---p' && end - start === 4096;
  }).length;
}

async function grown(script: string): Promise<number> {
  for (let i = 0; i < 3; i++) await run(script);
  const before = await guardPages();
  for (let i = 0; i < WORKERS; i++) await run(script);
  return (await guardPages()) - before;
}

t.test('a worker takes the stack of its calls along', async (t) => {
  const left = await grown('memory.releaseCallMemoryAtExit();');
  t.ok(left < WORKERS / 2, `${left} guard pages more after ${WORKERS} workers`);
});

t.test('calls work until the end', async (t) => {
  const script = `memory.releaseCallMemoryAtExit();
    for (let i = 0; i < 1000; i++) {
      const fd = sys.memfdCreate('x'.repeat(200), 0);
      if (fd < 0 || sys.close(fd) !== 0) throw new Error('a call failed');
    }`;
  await run(script);
  t.pass('no crash');
});

t.test('koffi itself still leaves it: the work-around has not become needless', async (t) => {
  const left = await grown('');
  t.ok(left >= WORKERS, `${left} guard pages more after ${WORKERS} workers`);
});
