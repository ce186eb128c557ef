/** The cost of a packet and of a gigabyte: measures that accompany those of the network. */
import type { Measure } from '../harness/measure.ts';
import type { Sample } from '../harness/rounds.ts';
import { ALL_EXITS, EXITS_TO_USERSPACE } from '../harness/usage.ts';
import type { HostCounters, NetRun } from './net-runs.ts';

/** The unit that CPU time is divided by. */
export type CpuPer = 'gigabyte' | 'packet';

interface Cost {
  readonly label: string;
  readonly unit: string;
  /** Left out of the table without `--profile`. */
  readonly detail: boolean;
  readonly of: (run: NetRun<unknown>, per: CpuPer) => number;
}

const PACKET = '/packet';

/** Seconds per gigabyte, or microseconds per packet. */
function cpuCost(
  seconds: number,
  traffic: { bytes: number; packets: number },
  per: CpuPer,
): number {
  return per === 'gigabyte' ? seconds / (traffic.bytes / 1e9) : (seconds * 1e6) / traffic.packets;
}

const between = (before: HostCounters, after: HostCounters) => ({
  packets: after.packets - before.packets,
  bytes: after.bytes - before.bytes,
});

/** Of the VMM's process and its backends, including the vCPU's time in the guest and vhost's threads. */
function hostCpu({ before, after }: NetRun<unknown>, per: CpuPer): number {
  if (before.usage.threads === undefined || after.usage.threads === undefined) return Number.NaN;
  let seconds = 0;
  for (const [name, cpu] of after.usage.threads) {
    seconds += cpu - (before.usage.threads.get(name) ?? 0);
  }
  return cpuCost(seconds, between(before, after), per);
}

/** NaN where KVM's counters cannot be read. */
function kvmPerPacket({ before, after }: NetRun<unknown>, counter: string): number {
  const [from, to] = [before.usage.kvm.get(counter), after.usage.kvm.get(counter)];
  if (from === undefined || to === undefined) return Number.NaN;
  return (to - from) / between(before, after).packets;
}

const COSTS: readonly Cost[] = [
  { label: 'host CPU', unit: '', detail: false, of: hostCpu },
  {
    label: 'exits to VMM',
    unit: PACKET,
    detail: false,
    of: (run) => kvmPerPacket(run, EXITS_TO_USERSPACE),
  },
  {
    label: 'guest CPU',
    unit: '',
    detail: true,
    of: ({ guest }, per) => cpuCost(guest.cpuSeconds, guest, per),
  },
  {
    label: 'all exits',
    unit: PACKET,
    detail: true,
    of: (run) => kvmPerPacket(run, ALL_EXITS),
  },
  {
    label: 'kicks',
    unit: PACKET,
    detail: true,
    of: ({ guest }) => (guest.kicks ?? Number.NaN) / guest.packets,
  },
  {
    label: 'interrupts',
    unit: PACKET,
    detail: true,
    of: ({ guest }) => guest.interrupts / guest.packets,
  },
  {
    label: 'size',
    unit: 'bytes/packet',
    detail: true,
    of: ({ before, after }) => {
      const { bytes, packets } = between(before, after);
      return bytes / packets;
    },
  },
];

const nameOf = (of: string, { label }: Cost): string => `${of}: ${label}`;

/** The measures of the cost of another one's runs. */
export function costMeasures(of: string, per: CpuPer): Measure[] {
  return COSTS.map((cost) => ({
    name: nameOf(of, cost),
    unit: cost.unit === '' ? (per === 'gigabyte' ? 's/GB' : 'us/packet') : cost.unit,
    // More bytes in a packet mean less work per byte.
    better: cost.label === 'size' ? 'higher' : 'lower',
    aspect: { of, label: cost.label, ...(cost.detail ? { detail: true } : {}) },
  }));
}

/** A sample of each of them. */
export function costSample(of: string, per: CpuPer, run: NetRun<unknown>): Sample {
  return Object.fromEntries(COSTS.map((cost) => [nameOf(of, cost), cost.of(run, per)]));
}
