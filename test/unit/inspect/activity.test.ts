/** How often things happen: rates between two samples, and sums. */
import t from 'tap';
import type { QueueSummary } from '../../../src/index.ts';
import {
  ActivityMeter,
  type MachineCounters,
  totalActivity,
} from '../../../src/inspect/activity.ts';
import { someCounters } from '../../support/fixtures/inspection.ts';

const NO_LATENCY = { count: 0, p50: 0, p90: 0, p99: 0, max: 0 };

/** Two queues of one device, of which the second has the same counts. */
function counters(exits: number, kicks: number, kvm = true): MachineCounters {
  const queue: QueueSummary = {
    device: 0,
    queue: 0,
    kicks,
    chains: 10 * kicks,
    batches: 0,
    largestBatch: 0,
    interrupts: 2 * kicks,
    suppressed: 0,
    kickToServed: NO_LATENCY,
    servedToInterrupt: NO_LATENCY,
    request: NO_LATENCY,
  };
  const { metrics } = someCounters();
  return {
    metrics: { ...metrics, exits: { KVM_EXIT_IO: exits }, kvm: kvm ? { exits: 5 * exits } : {} },
    trace: {
      devices: [{ name: 'net0', queues: ['a', 'b'] }],
      duration: 0,
      dropped: 0,
      exits: [],
      queues: [queue, { ...queue, queue: 1 }],
    },
  };
}

t.test('sums', (t) => {
  t.same(totalActivity(someCounters()), {
    exits: '12 VM exits, 4 to user space',
    devices: new Map(),
  });
  const { exits, devices } = totalActivity(counters(3, 7, false));
  t.equal(exits, '3 exits to user space', 'without counters of KVM');
  t.same(devices.get('net0'), {
    kicks: '14 kicks',
    chains: '140 chains',
    interrupts: '28 interrupts',
  });
  t.end();
});

t.test('rates, once a second', async (t) => {
  let now = 10_000;
  let read = 0;
  let next = counters(100, 1);
  const meter = new ActivityMeter(
    async () => {
      read++;
      return next;
    },
    () => now,
  );
  t.equal((await meter.current()).exits, '', 'one sample is no rate');
  next = counters(400, 2);
  now += 999;
  t.equal((await meter.current()).exits, '');
  t.equal(read, 1);
  now += 1001;
  const { exits, devices } = await meter.current();
  t.equal(exits, '750 VM exits/s, 150 to user space/s', 'of the two seconds in between');
  t.same(devices.get('net0'), {
    kicks: '1.0 kicks/s',
    chains: '10 chains/s',
    interrupts: '2.0 interrupts/s',
  });
  now += 1000;
  next = counters(0, 0);
  t.equal((await meter.current()).exits, '0 VM exits/s, 0 to user space/s', 'after a reset');
});
