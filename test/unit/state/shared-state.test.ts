import t from 'tap';
import { SharedState } from '../../../src/state/shared-state.ts';
import {
  EXIT_COUNTERS,
  REQUEST_PAUSE,
  REQUEST_RUN,
  VcpuControl,
} from '../../../src/state/vcpu-control.ts';

t.test('allocators that ask for the same get the same regions', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const [one, two] = [new SharedState(buffer), new SharedState(buffer)];
  const regions = [one, two].map((state) => [state.bytes(3), state.words(5), state.bytes(100)]);
  regions[0]?.forEach((region, i) => {
    region[1] = 10 + i;
    t.equal(regions[1]?.[i]?.[1], 10 + i);
    t.equal(region.byteOffset % 64, 0, 'each on cache lines of its own');
  });
});

t.test('regions do not overlap, and start as zeros', async (t) => {
  const state = new SharedState(SharedState.allocate(0x1000));
  const regions = [1, 63, 64, 65, 7].map((length) => state.bytes(length));
  for (const region of regions) {
    t.ok(region.every((byte) => byte === 0));
    region.fill(0xff);
  }
});

t.test('a buffer that is too small is a bug, and says so', async (t) => {
  const state = new SharedState(SharedState.allocate(256));
  t.throws(() => state.bytes(1024), { code: 'E_INTERNAL' });
});

t.test('vCPU requests and thread ids are seen by every thread', async (t) => {
  const buffer = SharedState.allocate(0x2000);
  const [one, two] = [0, 1].map(() => new VcpuControl(new SharedState(buffer), 2)) as [
    VcpuControl,
    VcpuControl,
  ];
  t.equal(two.request, REQUEST_RUN);
  one.request = REQUEST_PAUSE;
  t.equal(two.request, REQUEST_PAUSE);
  two.waitWhile(0);
  const first = two.ticket;
  one.request = REQUEST_RUN;
  one.request = REQUEST_PAUSE;
  t.not(two.ticket, first, 'a pause is not the one before');
  t.equal(VcpuControl.requestOf(two.ticket), REQUEST_PAUSE);
  one.setThreadId(1, 4711);
  t.same([two.threadId(0), two.threadId(1), two.threadId(2)], [0, 4711, 0]);
  const counters = one.exitCounters(1);
  counters[3] = 9;
  t.equal(two.exitCounters(1)[3], 9);
  t.equal(two.exitCounters(0)[3], 0);
  t.equal(two.exitCounters(7).length, EXIT_COUNTERS);
});
