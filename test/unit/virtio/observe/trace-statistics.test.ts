/** What a summary counts, and the file and the counts of a whole collection. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { traceTable } from '../../../../src/cli/run/trace-table.ts';
import { UsageError } from '../../../../src/host/errors.ts';
import { TraceCollector } from '../../../../src/virtio/observe/trace/trace-collector.ts';
import * as record from '../../../../src/virtio/observe/trace/trace-record.ts';
import { whomOf } from '../../../../src/virtio/observe/trace/trace-record.ts';
import { TraceWriter } from '../../../../src/virtio/observe/trace/trace-ring.ts';
import {
  LatencyHistogram,
  TraceCounter,
} from '../../../../src/virtio/observe/trace/trace-statistics.ts';
import { traceEvents, traceFaults } from '../../../support/fixtures/trace-format.ts';
import { testFolder } from '../../../support/rigs/files.ts';

const NAMES = {
  devices: [{ name: 'blk0', queues: ['requestq1'] }],
  cpus: 1,
  exit: String,
  status: String,
};
const BLK = whomOf(0, 0);

t.test('percentiles are right to a bucket of 9 %', (t) => {
  const times = new LatencyHistogram();
  t.equal(times.percentile(0.5), 0, 'of nothing');
  for (let i = 1; i <= 100; i++) times.add(i / 1000);
  for (const share of [0.5, 0.9, 0.99]) {
    const exact = share / 10;
    const found = times.percentile(share);
    t.ok(found >= exact && found <= exact * 1.1, `${found} for ${exact}`);
  }
  t.equal(times.percentile(1), 0.1);
  t.equal(times.max, 0.1);
  times.add(0);
  times.add(1e9);
  t.equal(times.percentile(1), 1e9, 'what is beyond the buckets');
  t.end();
});

t.test('kicks, batches, interrupts and suppression of a queue', (t) => {
  const counter = new TraceCounter();
  const take = (time: number, what: number, a = 0, b = 0, x = 0): void =>
    counter.take({ time, what, whom: BLK, a, b, x, y: 0 });
  take(0, record.KICK);
  for (const id of [1, 2, 3]) take(1, record.POP, id);
  take(2, record.KICK_END);
  for (const id of [2, 3]) take(3, record.PUSH, id);
  take(4, record.PUBLISH, 2, 1);
  take(5, record.INTERRUPT);
  take(6, record.KICK);
  take(6, record.KICK_END);
  take(7, record.PUSH, 1);
  take(8, record.PUBLISH, 1, 0);
  counter.take({ time: 9, what: record.EXIT, whom: 0, a: 2, b: 0, x: 8.5, y: 0 });
  const { queues, exits, duration } = counter.statistics;
  t.equal(duration, 9);
  t.match(queues, [
    {
      device: 0,
      queue: 0,
      kicks: 2,
      chains: 3,
      batches: 2,
      largestBatch: 2,
      interrupts: 1,
      suppressed: 1,
      kickToServed: { count: 1, max: 4 },
      servedToInterrupt: { count: 1, max: 1 },
      request: { count: 3, max: 6 },
    },
  ]);
  t.match(exits, [{ reason: 2, count: 1, time: { max: 0.5 } }]);
  const lines = traceTable({ ...counter.statistics, devices: NAMES.devices, dropped: 0 });
  t.match(
    lines.find((line) => line.startsWith('blk0 requestq1 ')),
    / 2 +3 +1\.5 +1\.5 +2 +1 +50%/,
  );
  t.match(
    lines.find((line) => line.startsWith('KVM_EXIT_IO')),
    / 1 +500\.0/,
  );
  t.end();
});

t.test(
  'a guest that reboots without end: the first and the latest readings of its clock stay',
  (t) => {
    const folder = testFolder(t);
    const file = path.join(folder, 'clocks.json');
    const collector = new TraceCollector(NAMES, file, (text) => t.fail(text));
    for (let i = 0; i < 10_000; i++) collector.noteClock({ guest_ns: i });
    collector.finish();
    const { otherData } = JSON.parse(readFileSync(file, 'utf8')) as {
      otherData: { clocks: { guest_ns: number }[] };
    };
    t.equal(otherData.clocks.length, 256);
    t.same([otherData.clocks[0]?.guest_ns, otherData.clocks.at(-1)?.guest_ns], [0, 9999]);
    t.end();
  },
);

t.test('a collection of two threads, with a file', (t) => {
  const folder = testFolder(t);
  const file = path.join(folder, 'trace.json');
  const collector = new TraceCollector(NAMES, file, (text) => t.fail(text));
  const worker = new TraceWriter(collector.ring('device0'));
  worker.write(record.KICK, BLK);
  collector.main.write(record.STATUS, whomOf(0), 0, 1, 1);
  worker.write(record.KICK_END, BLK);
  for (let i = 0; i < 70_000; i++) worker.write(record.KICKS_ON, BLK);
  collector.finish();
  collector.finish();
  worker.write(record.KICK, BLK);
  const text = readFileSync(file, 'utf8');
  t.same(traceFaults(text), []);
  t.ok(traceEvents(text).some(({ name }) => name === 'status 1'));
  const { dropped, queues } = collector.summary;
  t.match(queues, [{ kicks: 1 }]);
  t.ok(dropped > 1000, 'a ring that was not emptied in time reports what it dropped');
  t.match(JSON.parse(text), { otherData: { dropped_records: dropped } });
  t.equal(collector.ring('device0'), collector.ring('device0'));
  t.throws(() => new TraceCollector(NAMES, folder, () => undefined), UsageError);
  t.end();
});
