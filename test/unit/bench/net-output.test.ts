/** What the guests' tools print, read. */
import t from 'tap';
import { parseCounted } from '../../../bench/groups/guest-counters.ts';
import { costMeasures, costSample } from '../../../bench/groups/net-cost.ts';
import { type NetRun, parseIperf, parsePing } from '../../../bench/groups/net-runs.ts';

/** As the script in the guest prints it, with the counters given. */
function counters(
  cpu: string,
  input: number,
  output: number,
  shared: number,
  kicks: number,
): string {
  return `@counters
/proc/stat:cpu  ${cpu}
/proc/stat:cpu0 ${cpu}
/proc/stat:intr 12345 1 2
/proc/interrupts:           CPU0
/proc/interrupts:  1:       7000  IO-APIC   1-edge      i8042
/proc/interrupts: 24:        900  PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
/proc/interrupts: 25:       ${input}  PCI-MSIX-0000:00:04.0   1-edge      virtio2-input.0
/proc/interrupts: 26:       ${output}  PCI-MSIX-0000:00:04.0   2-edge      virtio2-output.0
/proc/interrupts: 27:       ${shared}  IO-APIC   11-fasteoi   uhci_hcd:usb1, eth0
/proc/interrupts: 28:       5000  PCI-MSIX-0000:00:05.0   1-edge      virtio21-input.0
/proc/interrupts:LOC:      90000   Local timer interrupts
/sys/class/net/eth0/statistics/rx_packets:${input * 10}
/sys/class/net/eth0/statistics/tx_packets:${output * 10}
/sys/class/net/eth0/statistics/rx_bytes:${input * 1000}
/sys/class/net/eth0/statistics/tx_bytes:${output * 1000}
NIC statistics:
     rx0_packets: 4
     rx0_kicks: ${kicks}
     tx0_packets: 5
     tx0_kicks: ${kicks + 1}
     tx0_tx_timeouts: 0
`;
}

const TEXT = `device: virtio2
${counters('100 10 200 9000 50 3 7 0 0 0', 11, 20, 0, 5)}${counters('150 10 300 9900 60 4 10 0 0 0', 111, 320, 40, 105)}@output
64 bytes
@counters in the output are the command's own
`;

t.test('the guest’s counters are differences, of its own interface alone', (t) => {
  const { output, counts } = parseCounted(TEXT);
  t.match(output, /^64 bytes\n/);
  t.match(counts, { interrupts: 440, kicks: 200, packets: 4000, bytes: 400_000 });
  t.ok(Math.abs(counts.cpuSeconds - 1.54) < 1e-9, `${counts.cpuSeconds} s`);
  t.end();
});

t.test('another driver counts no kicks', (t) => {
  const { counts } = parseCounted(TEXT.replaceAll(/ +[rt]x0_kicks: \d+\n/g, ''));
  t.notOk('kicks' in counts);
  t.end();
});

t.test('a guest that says something else', (t) => {
  for (const text of ['', 'sh: not found', 'device: x\n@counters\n', '@counters\n@counters\n']) {
    t.throws(() => parseCounted(text), /not understood/, text);
  }
  t.end();
});

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
  const at = (seconds: number, exits: number, packets: number) => ({
    usage: {
      at: 0,
      threads: new Map([
        ['vcpu', seconds],
        ['vhost-7', 2 * seconds],
      ]),
      kvm: new Map([
        ['exits', exits],
        ['fpu_reload', exits / 4],
      ]),
    },
    packets,
    bytes: packets * 1000,
  });
  const run: NetRun<string> = {
    value: '',
    before: at(1, 1000, 0),
    after: at(3, 5000, 1000),
    guest: { cpuSeconds: 1, interrupts: 50, kicks: 100, packets: 2000, bytes: 4e9 },
  };
  t.same(costSample('m', 'gigabyte', run), {
    'm: host CPU': 6 / 0.001,
    'm: exits to VMM': 1,
    'm: guest CPU': 0.25,
    'm: all exits': 4,
    'm: kicks': 0.05,
    'm: interrupts': 0.025,
    'm: size': 1000,
  });
  t.match(costSample('m', 'packet', run), { 'm: host CPU': 6000, 'm: guest CPU': 500 });
  const names = costMeasures('m', 'packet').map(({ name }) => name);
  t.same(names, Object.keys(costSample('m', 'packet', run)));
  const blind = { ...run, after: { ...run.after, usage: { ...run.after.usage, kvm: new Map() } } };
  t.same(costSample('m', 'packet', blind)['m: all exits'], Number.NaN, 'no debugfs');
  t.end();
});
