/** What the guests' tools print, and what their traffic costs. */
import t from 'tap';
import { between, costMeasures, costSample } from '../../../bench/groups/costs.ts';
import { parseIperf, parsePing } from '../../../bench/groups/net-runs.ts';

t.test('ping: microseconds of each line', (t) => {
  const text = `PING 10.0.0.1 (10.0.0.1): 56 data bytes
64 bytes from 10.0.0.1: seq=0 ttl=64 time=1.234 ms
64 bytes from 10.0.0.1: seq=1 ttl=64 time=0.500 ms

--- 10.0.0.1 ping statistics ---
round-trip min/avg/max = 0.500/0.867/1.234 ms
`;
  t.same(parsePing(text), [1234, 500]);
  t.throws(() => parsePing('ping: sendto: Network is unreachable'), /unreachable/);
  t.end();
});

t.test('iperf3: its report, or what it says instead', (t) => {
  const report = { end: { sum_received: { bits_per_second: 8e6 } } };
  t.same(parseIperf(`warning\n${JSON.stringify(report)}`), report);
  t.throws(() => parseIperf('{"error":"the server is busy"}'), /busy/);
  t.throws(() => parseIperf('no such file'), /no such file/);
  t.end();
});

t.test('what a run costs, a gigabyte and a packet', (t) => {
  const before = { cpuSeconds: 3, exits: 500, exitsToVmm: 250 };
  const run = between(before, { cpuSeconds: 9, exits: 3500, exitsToVmm: 1250 });
  t.same(costSample('m', 'gigabyte', run, 1e6), {
    'm: host CPU': 6 / 0.001,
    'm: exits': 3e6,
    'm: exits to VMM': 1e6,
  });
  const packets = { 'm: host CPU': 6000, 'm: exits': 3, 'm: exits to VMM': 1 };
  t.same(costSample('m', 'packet', run, 1000), packets);
  t.same(costSample('m', 'request', run, 1000), packets);
  for (const per of ['gigabyte', 'packet', 'request'] as const) {
    const names = costMeasures('m', per).map(({ name }) => name);
    t.same(names, Object.keys(packets));
  }
  const blind = { ...run, exitsToVmm: Number.NaN };
  t.same(costSample('m', 'packet', blind, 1)['m: exits to VMM'], Number.NaN, 'no debugfs');
  t.end();
});
