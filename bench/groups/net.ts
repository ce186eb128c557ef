/** The network: TCP with one and with four streams, small UDP packets, round trips; the cost of each. */
import { quantile } from 'simple-statistics';
import type { Measure } from '../harness/measure.ts';
import type { Sample } from '../harness/rounds.ts';
import { NET_SUBJECTS } from '../subjects/all.ts';
import { measureGuests, type Step } from './fleet.ts';
import type { Group } from './group.ts';
import { costMeasures, costSample } from './net-costs.ts';
import {
  IperfServer,
  iperf,
  ping,
  type TapNetwork,
  Taps,
  type Traffic,
  type Wired,
} from './net-runs.ts';

const MEMORY_MIB = 512;
const PINGS = 300;
const DATAGRAM = 64;
const WARM_UP_SECONDS = 1;

/** A kind of traffic, and the measures that its runs yield. */
interface Kind {
  readonly measures: Step['measures'];
  /** Left out with `--quick`. */
  readonly long?: boolean;
  take(server: IperfServer, wired: Wired, seconds: number): Promise<Sample>;
}

function tcp(name: string, traffic: Omit<Traffic, 'seconds'>, long = false): Kind {
  return {
    measures: [{ name, unit: 'Mbit/s', better: 'higher' }, ...costMeasures(name, 'gigabyte')],
    long,
    async take(server, wired, seconds) {
      const run = await iperf(server, wired, { ...traffic, seconds });
      const rate = run.value.end.sum_received.bits_per_second / 1e6;
      return { [name]: rate, ...costSample(name, 'gigabyte', run.cost) };
    },
  };
}

function udp(name: string, reverse: boolean): Kind {
  const lost: Measure = {
    name: `${name}: lost`,
    unit: '%',
    better: 'lower',
    aspect: { of: name, label: 'lost' },
  };
  return {
    measures: [
      { name, unit: 'packets/s', better: 'higher' },
      lost,
      ...costMeasures(name, 'packet'),
    ],
    async take(server, wired, seconds) {
      const run = await iperf(server, wired, { reverse, datagram: DATAGRAM, seconds });
      const { bits_per_second, packets = 0, lost_packets = 0 } = run.value.end.sum_received;
      return {
        [name]: bits_per_second / 8 / DATAGRAM,
        [lost.name]: (100 * lost_packets) / packets,
        ...costSample(name, 'packet', run.cost),
      };
    },
  };
}

function roundTrips(): Kind {
  const name = 'ping round trip';
  const unit = 'us';
  const better = 'lower';
  const percentile = (percent: number): Measure => ({
    ...{ name: `${name}: p${percent}`, unit, better },
    aspect: { of: name, label: `p${percent}` },
  });
  const [p90, p99] = [percentile(90), percentile(99)];
  return {
    measures: [{ name, unit, better }, p90, p99, ...costMeasures(name, 'packet')],
    async take(_server, wired) {
      const run = await ping(wired, PINGS);
      const at = (part: number): number => quantile([...run.value], part);
      const times = { [name]: at(0.5), [p90.name]: at(0.9), [p99.name]: at(0.99) };
      return { ...times, ...costSample(name, 'packet', run.cost) };
    },
  };
}

const KINDS: readonly Kind[] = [
  tcp('TCP guest to host', { reverse: false }),
  tcp('TCP host to guest', { reverse: true }),
  tcp('TCP guest to host, 4 streams', { reverse: false, streams: 4 }, true),
  tcp('TCP host to guest, 4 streams', { reverse: true, streams: 4 }, true),
  udp('UDP of 64 bytes, guest to host', false),
  udp('UDP of 64 bytes, host to guest', true),
  roundTrips(),
];

export const netGroup: Group = {
  name: 'net',
  summary: 'TCP and small UDP packets through a tap both ways, round trips, what they cost',
  image: 'tools',
  subjects: NET_SUBJECTS,
  async run(context) {
    const { seconds, quick, skips } = context;
    const kinds = KINDS.filter(
      ({ measures: [{ name }], long = false }) => !(long && quick) && !skips(name),
    );
    if (kinds.length === 0) return;
    const subjects = context.select(NET_SUBJECTS);
    using taps = new Taps();
    const networks: TapNetwork[] = [];
    for (const index of subjects.keys()) networks.push(await taps.add(index));
    const networkOf = (index: number): TapNetwork => networks[index] as TapNetwork;
    const specOf = (index: number) => {
      const { tap, guestAddress } = networkOf(index);
      return { memoryMiB: MEMORY_MIB, tap, append: `nodevmm.ip=${guestAddress}/24` };
    };
    await using server = new IperfServer();
    const steps = kinds.map(
      ({ measures, take }): Step => ({
        measures,
        take: (guest, index, warmUp) =>
          take(
            server,
            { guest, network: networkOf(index) },
            warmUp ? Math.min(WARM_UP_SECONDS, seconds) : seconds,
          ),
      }),
    );
    await measureGuests(netGroup, subjects, specOf, steps, context);
  },
};
