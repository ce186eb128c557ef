/** The network: TCP with one and with four streams, small UDP packets, round trips; the cost of each. */
import { quantile } from 'simple-statistics';
import type { Measure } from '../harness/measure.ts';
import type { Sample } from '../harness/rounds.ts';
import { NET_SUBJECTS } from '../subjects/all.ts';
import { dealCards, type GuestSpec, type Subject } from '../subjects/subject.ts';
import { costMeasures, costSample } from './costs.ts';
import { measureGuests, type Step } from './fleet.ts';
import type { Group, GroupContext } from './group.ts';
import {
  IperfServer,
  iperf,
  type Network,
  Networks,
  ping,
  type Traffic,
  type Wired,
} from './net-runs.ts';

const MEMORY_MIB = 512;
const PINGS = 300;
const DATAGRAM = 64;
const WARM_UP_SECONDS = 1;
const NO_CARD = 'no network card to pass to it; --vfio-nets ADDRESS=INTERFACE';

/** A kind of traffic, and the measures that its runs yield. */
interface Kind {
  readonly measures: Step['measures'];
  /** Left out with `--quick`. */
  readonly long?: boolean;
  /** A guest that only answers pings takes part. */
  readonly echo?: boolean;
  take(server: IperfServer, wired: Wired, seconds: number): Promise<Sample>;
}

function tcp(name: string, traffic: Omit<Traffic, 'seconds'>, long = false): Kind {
  return {
    measures: [{ name, unit: 'Mbit/s', better: 'higher' }, ...costMeasures(name, 'gigabyte')],
    long,
    async take(server, wired, seconds) {
      const run = await iperf(server, wired, { ...traffic, seconds });
      const rate = run.value.end.sum_received.bits_per_second / 1e6;
      return { [name]: rate, ...costSample(name, 'gigabyte', run.cost, run.cost.bytes) };
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
        ...costSample(name, 'packet', run.cost, run.cost.packets),
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
    echo: true,
    async take(_server, wired) {
      const run = await ping(wired, PINGS);
      const at = (part: number): number => quantile([...run.value], part);
      const times = { [name]: at(0.5), [p90.name]: at(0.9), [p99.name]: at(0.99) };
      return { ...times, ...costSample(name, 'packet', run.cost, run.cost.packets) };
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

/** Measures rows of a group. */
export async function measureNet(
  group: Group,
  rows: readonly Subject[],
  context: GroupContext,
): Promise<void> {
  const { seconds, quick, skips, vfioNets } = context;
  const kinds = KINDS.filter(
    ({ measures: [{ name }], long = false }) => !(long && quick) && !skips(name),
  );
  if (kinds.length === 0) return;
  const { subjects, cards } = dealCards(context.select(rows), vfioNets, context, NO_CARD);
  using networks = new Networks();
  const specs: Omit<GuestSpec, 'kernel' | 'initrd'>[] = [];
  const ends: Network[] = [];
  for (const [index, subject] of subjects.entries()) {
    const [vfio, device = ''] = cards.get(subject)?.split('=') ?? [];
    const end = await (vfio === undefined
      ? networks.addTap(index)
      : networks.addWire(index, device));
    ends.push(end);
    specs.push({
      memoryMiB: MEMORY_MIB,
      append: `nodevmm.ip=${end.guestAddress}/24`,
      ...(vfio === undefined ? { tap: end.device } : { vfio }),
    });
  }
  const echoes = (index: number): boolean => subjects[index]?.echoes === true;
  const specOf = (index: number) => specs[index] as (typeof specs)[number];
  await using server = new IperfServer();
  const steps = kinds.map(
    ({ measures, echo = false, take }): Step => ({
      measures,
      suits: (index) => echo || !echoes(index),
      take: (guest, index, warmUp) =>
        take(
          server,
          { guest, network: ends[index] as Network, echoes: echoes(index) },
          warmUp ? Math.min(WARM_UP_SECONDS, seconds) : seconds,
        ),
    }),
  );
  await measureGuests(group, subjects, specOf, steps, context);
}

export const netGroup: Group = {
  name: 'net',
  summary:
    'TCP and small UDP packets both ways between guest and host, round trips, what they cost',
  image: 'tools',
  subjects: NET_SUBJECTS,
  run: (context) => measureNet(netGroup, NET_SUBJECTS, context),
};
