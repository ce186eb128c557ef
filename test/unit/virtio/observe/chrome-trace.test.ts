/** Records as Perfetto sees them: every event is of the format, every begin has its end. */
import fc from 'fast-check';
import t from 'tap';
import { statusText } from '../../../../src/abi/virtio-names.ts';
import { ChromeTrace, type TraceNames } from '../../../../src/virtio/observe/trace/chrome-trace.ts';
import * as record from '../../../../src/virtio/observe/trace/trace-record.ts';
import { whomOf } from '../../../../src/virtio/observe/trace/trace-record.ts';
import type { TraceRecord } from '../../../../src/virtio/observe/trace/trace-ring.ts';
import { traceEvents, traceFaults } from '../../../support/fixtures/trace-format.ts';

const NAMES: TraceNames = {
  devices: [
    { name: 'blk0', queues: ['requestq1'] },
    { name: 'net0', queues: ['receiveq1', 'transmitq1'] },
  ],
  cpus: 2,
  exit: (reason) => `KVM_EXIT_${reason}`,
  status: statusText,
};

/** The file that a trace of these records is. */
function fileOf(records: readonly TraceRecord[]): string {
  const events: string[] = [];
  const trace = new ChromeTrace(NAMES, (json) => events.push(json));
  for (const one of records) trace.take(one);
  trace.finish();
  return `{"displayTimeUnit":"ns","traceEvents":[${events.join(',')}],"otherData":{}}`;
}

const at = (
  time: number,
  what: number,
  whom: number,
  more: Partial<TraceRecord> = {},
): TraceRecord => ({ time, what, whom, a: 0, b: 0, x: 0, y: 0, ...more });

const BLK = whomOf(0, 0);
const REQUEST: readonly TraceRecord[] = [
  at(1, record.CLOCK, 0, { x: 500e3 }),
  at(2, record.KICK, BLK),
  at(3, record.POP, BLK, { a: 4, b: 2, x: 16, y: 513 }),
  at(3, record.SEGMENT, BLK, { a: 0, b: 0, x: 0x1000, y: 16 }),
  at(3, record.SEGMENT, BLK, { a: 1, b: 1, x: 0x2000, y: 513 }),
  at(4, record.KICK_END, BLK),
  at(6, record.READY, whomOf(0), { a: 1, b: 1 }),
  at(7, record.PUSH, BLK, { a: 4, x: 513 }),
  at(8, record.PUBLISH, BLK, { a: 1, b: 1 }),
  at(9, record.INTERRUPT, BLK),
  at(10, record.READY_END, whomOf(0)),
];

t.test('a request, from its kick to its interrupt', (t) => {
  const text = fileOf(REQUEST);
  t.same(traceFaults(text), []);
  const events = traceEvents(text);
  const spans = (name: string): (number | string)[][] =>
    events.filter((event) => event.name === name).map(({ ph, ts }) => [ph, ts]);
  t.same(spans('kick to interrupt'), [
    ['b', 2000],
    ['e', 9000],
  ]);
  t.same(spans('kick to served'), [
    ['b', 2000],
    ['e', 8000],
  ]);
  t.same(spans('served to interrupt'), [
    ['b', 8000],
    ['e', 9000],
  ]);
  t.same(spans('request'), [
    ['b', 3000],
    ['e', 7000],
  ]);
  t.same(events.find(({ name, ph }) => name === 'request' && ph === 'b')?.args, {
    head: 4,
    descriptors: [
      { address: '0x1000', length: 16, direction: 'readable' },
      { address: '0x2000', length: 513, direction: 'writable' },
    ],
    readable: 16,
    writable: 513,
    written: 513,
  });
  const counts = events.filter(({ ph }) => ph === 'C').map(({ args }) => args?.chains);
  t.same(counts, [1, 0]);
  t.equal(events.find(({ name }) => name === 'interrupt')?.args?.guest_us, 8500, 'guest time');
  t.end();
});

t.test('what the driver wants no interrupt for ends as it is used', (t) => {
  const records = REQUEST.filter(({ what }) => what !== record.INTERRUPT);
  const events = traceEvents(
    fileOf(records.map((one) => (one.what === record.PUBLISH ? { ...one, b: 0 } : one))),
  );
  t.same(
    events.filter(({ name }) => name === 'kick to use').map(({ ts }) => ts),
    [2000, 8000],
  );
  t.notOk(events.some(({ name }) => name === 'kick to interrupt'));
  t.end();
});

t.test('a trace that was cut off anywhere', (t) => {
  for (let cut = 0; cut <= REQUEST.length; cut++) {
    t.same(traceFaults(fileOf(REQUEST.slice(0, cut))), [], `after ${cut} records`);
    t.same(traceFaults(fileOf(REQUEST.slice(cut))), [], `before record ${cut}`);
  }
  t.end();
});

t.test('exits, registers', (t) => {
  const text = fileOf([
    at(5, record.EXIT, 1, { a: 2, b: 4, x: 4.5, y: 0x1000 }),
    at(6, record.STATUS, whomOf(1), { a: 3, b: 0xb, x: 0xb }),
    at(5.5, record.CONFIG_READ, whomOf(1), { a: 6, b: 2, x: 1 }),
    at(7, record.QUEUE_ENABLED, whomOf(1, 1), { a: 256, x: 0x5000 }),
  ]);
  t.same(traceFaults(text), [], 'a register record that is late stays behind the one before');
  const [exit, status, config, enabled] = traceEvents(text).filter(({ ph }) => ph !== 'M');
  t.match(exit, { ph: 'X', name: 'KVM_EXIT_2', tid: 2, ts: 4500, dur: 500 });
  t.match(status, { name: 'status ACKNOWLEDGE | DRIVER | FEATURES_OK' });
  t.match(config, { name: 'config read', ts: 6000, args: { offset: 6, bytes: 2, value: '0x1' } });
  t.match(enabled, { args: { queue: 1, size: 256, descriptor_area: '0x5000' } });
  t.end();
});

t.test('any records at all make a trace of the format', (t) => {
  const whom = fc.constantFrom(BLK, whomOf(0), whomOf(1, 0), whomOf(1, 1), whomOf(1));
  const one = fc.record({
    time: fc.constant(0),
    what: fc.integer({ min: 1, max: record.NEEDS_RESET }),
    whom,
    a: fc.integer({ min: 0, max: 3 }),
    b: fc.integer({ min: 0, max: 1 }),
    x: fc.nat(),
    y: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 60 }), (records) => {
      const faults = traceFaults(fileOf(records.map((r, i) => ({ ...r, time: i / 3 }))));
      if (faults.length > 0) throw new Error(faults.join('\n'));
    }),
  );
  t.end();
});
