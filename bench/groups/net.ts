/** The network: TCP with one and with four streams, small UDP packets, round trips; the cost of each. */
import { quantile } from 'simple-statistics';
import type { Measure } from '../harness/measure.ts';
import { measureInRounds, type Sample } from '../harness/rounds.ts';
import { NET_SUBJECTS } from '../subjects/all.ts';
import { select } from '../subjects/selection.ts';
import {
  awake,
  type Booted,
  Fleet,
  type Group,
  type GroupContext,
  processesOf,
  spanOf,
} from './group.ts';
import { costMeasures, costSample } from './net-cost.ts';
import { iperf, ping, type Traffic, type Wired } from './net-runs.ts';
import { IperfServer, type TapNetwork, Taps } from './taps.ts';

const MEMORY_MIB = 512;
const PINGS = 300;
const DATAGRAM = 64;
const WARM_UP_SECONDS = 1;

/** Measures that the same runs yield. */
interface Step {
  readonly headline: Measure;
  /** The headline and its accompanying measures. */
  readonly measures: readonly Measure[];
  /** Left out with `--quick`. */
  readonly long?: boolean;
  take(server: IperfServer, wired: Wired, seconds: number): Promise<Sample>;
}

function tcp(name: string, traffic: Omit<Traffic, 'seconds'>, long = false): Step {
  const headline: Measure = { name, unit: 'Mbit/s', better: 'higher' };
  return {
    headline,
    measures: [headline, ...costMeasures(name, 'gigabyte')],
    long,
    async take(server, wired, seconds) {
      const run = await iperf(server, wired, { ...traffic, seconds });
      const rate = run.value.end.sum_received.bits_per_second / 1e6;
      return { [name]: rate, ...costSample(name, 'gigabyte', run) };
    },
  };
}

function udp(name: string, reverse: boolean): Step {
  const headline: Measure = { name, unit: 'packets/s', better: 'higher' };
  const lost: Measure = {
    name: `${name}: lost`,
    unit: '%',
    better: 'lower',
    aspect: { of: name, label: 'lost', detail: true },
  };
  return {
    headline,
    measures: [headline, lost, ...costMeasures(name, 'packet')],
    async take(server, wired, seconds) {
      const run = await iperf(server, wired, { reverse, datagram: DATAGRAM, seconds });
      const { bits_per_second, packets = 0, lost_packets = 0 } = run.value.end.sum_received;
      return {
        [name]: bits_per_second / 8 / DATAGRAM,
        [lost.name]: (100 * lost_packets) / packets,
        ...costSample(name, 'packet', run),
      };
    },
  };
}

function roundTrips(): Step {
  const name = 'ping round trip';
  const headline: Measure = { name, unit: 'us', better: 'lower' };
  const percentiles = [90, 99].map((percent) => ({
    percent,
    measure: {
      name: `${name}: p${percent}`,
      unit: 'us',
      better: 'lower' as const,
      aspect: { of: name, label: `p${percent}` },
    },
  }));
  return {
    headline,
    measures: [
      headline,
      ...percentiles.map(({ measure }) => measure),
      ...costMeasures(name, 'packet'),
    ],
    async take(_server, wired) {
      const run = await ping(wired, PINGS);
      const others = percentiles.map(({ percent, measure }) => [
        measure.name,
        quantile([...run.value], percent / 100),
      ]);
      return {
        [name]: quantile([...run.value], 0.5),
        ...Object.fromEntries(others),
        ...costSample(name, 'packet', run),
      };
    },
  };
}

const STEPS: readonly Step[] = [
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
  guests: true,
  images: ({ subjects, variants }) => {
    const chosen = select(NET_SUBJECTS, { subjects, variants }, () => {});
    return chosen.map(({ kernel }) => ({
      name: 'tools',
      ...(kernel === undefined ? {} : { kernel }),
    }));
  },
  async run(context: GroupContext): Promise<void> {
    const { seconds, quick, skips } = context;
    const steps = STEPS.filter(
      ({ headline, long = false }) => !(long && quick) && !skips(headline.name),
    );
    if (steps.length === 0) return;
    const subjects = select(NET_SUBJECTS, context.wanted, context.omit);
    using taps = new Taps();
    const networks: TapNetwork[] = [];
    for (const index of subjects.keys()) networks.push(await taps.add(index));
    await using fleet = await Fleet.boot('net', 'tools', subjects, context, (index) => {
      const { tap, guestAddress } = networks[index] as TapNetwork;
      return { memoryMiB: MEMORY_MIB, tap, append: `nodevmm.ip=${guestAddress}/24` };
    });
    const wired = (member: Booted): Wired => ({
      member,
      network: networks[fleet.members.indexOf(member)] as TapNetwork,
    });
    await using server = new IperfServer();
    for (const [index, { measures, take }] of steps.entries()) {
      const taking = {
        ...{ group: 'net', measures, contestants: fleet.members, processes: processesOf },
        take: (member: Booted, warmUp: boolean) =>
          awake(member, () =>
            take(server, wired(member), warmUp ? Math.min(WARM_UP_SECONDS, seconds) : seconds),
          ),
        revive: fleet.revive,
        span: spanOf(index, steps.length),
      };
      context.report(await measureInRounds(taking, context));
    }
  },
};
