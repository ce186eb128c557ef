/** One run of iperf3 or ping between a guest and the host, and its cost. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { readUsage, type UsageCounters } from '../harness/usage.ts';
import { type Booted, processesOf } from './group.ts';
import { type GuestCounts, runCounted } from './guest-counters.ts';
import type { IperfServer, TapNetwork } from './taps.ts';

/** A member and the host end of its interface. */
export interface Wired {
  readonly member: Booted;
  readonly network: TapNetwork;
}

/** The host's counters for a guest at one moment. */
export interface HostCounters {
  readonly usage: UsageCounters;
  /** Through the tap, both ways. */
  readonly packets: number;
  readonly bytes: number;
}

/** A run: its result and its cost. */
export interface NetRun<T> {
  readonly value: T;
  readonly before: HostCounters;
  readonly after: HostCounters;
  readonly guest: GuestCounts;
}

/** How iperf3 is used. */
export interface Traffic {
  readonly seconds: number;
  /** From host to guest. */
  readonly reverse: boolean;
  /** TCP connections. */
  readonly streams?: number;
  /** Bytes in a UDP datagram, sent at the full rate. */
  readonly datagram?: number;
}

/** The parts of iperf3 -J's output that are used. */
export interface IperfReport {
  readonly error?: string;
  readonly end: {
    readonly sum_received: {
      readonly bits_per_second: number;
      readonly packets?: number;
      readonly lost_packets?: number;
    };
  };
}

/** The time that a run may take beyond its duration: a longer one means that the guest hangs. */
const GRACE_MS = 60_000;
const START_POLL_MS = 20;
/** More than iperf3 needs to set up a run. */
const UNDER_WAY_BYTES = 30_000;
/** Slow starters are under way by then, as a fraction of the requested time. */
const UNDER_WAY_AT = 0.5;
/** The part of the requested time over which the host's counters are read: iperf3's start and end are its own. */
const COUNTED = 0.8;

function readTap(tap: string, counter: string): number {
  return Number(readFileSync(`/sys/class/net/${tap}/statistics/${counter}`, 'latin1'));
}

async function readHost({ member, network: { tap } }: Wired): Promise<HostCounters> {
  return {
    usage: await readUsage(processesOf(member)),
    packets: readTap(tap, 'rx_packets') + readTap(tap, 'tx_packets'),
    bytes: readTap(tap, 'rx_bytes') + readTap(tap, 'tx_bytes'),
  };
}

/** iperf3 in the guest, with its own server on the host. */
export async function iperf(
  server: IperfServer,
  wired: Wired,
  traffic: Traffic,
): Promise<NetRun<IperfReport>> {
  const { seconds, reverse, streams = 1, datagram } = traffic;
  const { member, network } = wired;
  await server.listen();
  const argv = [
    ...['iperf3', '-J', '-c', network.hostAddress, '-t', String(seconds), '-P', String(streams)],
    ...(datagram === undefined ? [] : ['-u', '-b', '0', '-l', String(datagram)]),
    ...(reverse ? ['-R'] : []),
  ];
  const idle = await readHost(wired);
  const late = performance.now() + seconds * 1000 * UNDER_WAY_AT;
  let ended = false;
  const running = runCounted(member, argv, seconds * 1000 + GRACE_MS).finally(() => {
    ended = true;
  });
  // Reported below; meanwhile it is awaited elsewhere.
  running.catch(() => {});
  let before = await readHost(wired);
  while (
    !ended &&
    before.bytes - idle.bytes < UNDER_WAY_BYTES &&
    (before.bytes === idle.bytes || performance.now() < late)
  ) {
    await delay(START_POLL_MS);
    before = await readHost(wired);
  }
  await Promise.race([delay(seconds * 1000 * COUNTED), running.catch(() => {})]);
  const after = await readHost(wired);
  const { output, counts } = await server.during(running);
  return { value: parseIperf(output), before, after, guest: counts };
}

/** @throws Error with iperf3's message when it failed */
export function parseIperf(output: string): IperfReport {
  const begin = output.indexOf('{');
  if (begin < 0) throw new Error(`iperf3 says: ${output.slice(0, 300)}`);
  const report = JSON.parse(output.slice(begin)) as IperfReport;
  if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`);
  return report;
}

const PING_INTERVAL_SECONDS = 0.005;

/** Round-trip times from the guest to the host, in microseconds, of this many pings. */
export async function ping(wired: Wired, count: number): Promise<NetRun<readonly number[]>> {
  const argv = [
    ...['ping', '-c', String(count), '-i', String(PING_INTERVAL_SECONDS)],
    wired.network.hostAddress,
  ];
  const before = await readHost(wired);
  const { output, counts } = await runCounted(wired.member, argv, GRACE_MS);
  return { value: parsePing(output), before, after: await readHost(wired), guest: counts };
}

/** Parses lines such as `64 bytes from 10.0.2.1: seq=0 ttl=64 time=0.512 ms`. @throws Error without any */
export function parsePing(output: string): number[] {
  const times = [...output.matchAll(/ time=([0-9.]+) ms/g)].map((match) => Number(match[1]) * 1000);
  if (times.length === 0) throw new Error(`ping says: ${output.slice(0, 300)}`);
  return times;
}
