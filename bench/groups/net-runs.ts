/** One run of iperf3 or ping between a guest and the host, the interface of the host's end, and its cost. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { run as runHere } from '../../src/guest/programs.ts';
import { CleanupStack } from '../../src/host/cleanup-stack.ts';
import { onProcessExit } from '../../src/host/threads.ts';
import { Child } from '../subjects/child.ts';
import { type RunningGuest, run } from '../subjects/subject.ts';
import { between, type ProcessCounters, readProcesses } from './costs.ts';

const REMEDY = 'it takes CAP_NET_ADMIN and /dev/net/tun';

/** The host's end of a guest's network: its interface, and the addresses of both. */
export interface Network {
  readonly device: string;
  readonly hostAddress: string;
  readonly guestAddress: string;
}

/** Networks of guests that run side by side, each with its own subnet; gone at the end. */
export class Networks implements Disposable {
  readonly #removals = new CleanupStack();

  /** Makes a tap. @param index distinguishes it from the others, 0 to 254 */
  async addTap(index: number): Promise<Network> {
    const tap = `nvmbench${index}`;
    await ip('tuntap', 'add', 'dev', tap, 'mode', 'tap');
    return await this.#setUp(index, tap, ['link', 'delete', tap]);
  }

  /** Uses an interface of the host that is wired to the guest's card. */
  async addWire(index: number, device: string): Promise<Network> {
    return await this.#setUp(index, device, [
      'address',
      'delete',
      `${addressOf(index)}/24`,
      'dev',
      device,
    ]);
  }

  async #setUp(index: number, device: string, removal: readonly string[]): Promise<Network> {
    const undo = (): void => remove(removal);
    this.#removals.defer(onProcessExit(undo));
    this.#removals.defer(undo);
    const hostAddress = addressOf(index);
    await ip('address', 'add', `${hostAddress}/24`, 'dev', device);
    await ip('link', 'set', device, 'up');
    return { device, hostAddress, guestAddress: `10.199.${index}.2` };
  }

  [Symbol.dispose](): void {
    this.#removals.dispose();
  }
}

const addressOf = (index: number): string => `10.199.${index}.1`;
const ip = (...args: string[]) => runHere(['ip', ...args], REMEDY);

function remove(args: readonly string[]): void {
  try {
    execFileSync('ip', args, { stdio: 'ignore' });
  } catch {
    // Gone already.
  }
}

/** A listening iperf3 server, replaced after a run that failed: the old one may stay busy forever. */
export class IperfServer implements AsyncDisposable {
  #child: Child | undefined;

  /** Makes a run of a client. @throws Error as the run does, or when the server ends */
  async serve<T>(client: () => Promise<T>): Promise<T> {
    try {
      const child = this.#child ?? (await this.#start());
      return await child.during('iperf3', client());
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<Child> {
    const child = new Child(['iperf3', '-s', '--forceflush']);
    this.#child = child;
    await child.during('iperf3 -s', once(child.process.stdout ?? child.process, 'data'));
    return child;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    await child?.[Symbol.asyncDispose]();
  }
}

/** A guest and the host end of its interface. */
export interface Wired {
  readonly guest: RunningGuest;
  readonly network: Network;
  /** The guest only answers pings. */
  readonly echoes: boolean;
}

/** With what went through the interface meanwhile, both ways. */
export interface NetCounters extends ProcessCounters {
  readonly packets: number;
  readonly bytes: number;
}

/** A run: its result and its cost. */
export interface NetRun<T> {
  readonly value: T;
  readonly cost: NetCounters;
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
/** The part of the requested time over which counters are read: iperf3's start and end are its own. */
const COUNTED = 0.8;

function readCounters({ guest, network: { device } }: Wired): NetCounters {
  const read = (counter: string): number =>
    Number(readFileSync(`/sys/class/net/${device}/statistics/${counter}`, 'latin1'));
  return {
    ...readProcesses(guest),
    packets: read('rx_packets') + read('tx_packets'),
    bytes: read('rx_bytes') + read('tx_bytes'),
  };
}

/** iperf3 in the guest, with its own server on the host. */
export async function iperf(
  server: IperfServer,
  wired: Wired,
  traffic: Traffic,
): Promise<NetRun<IperfReport>> {
  const { seconds, reverse, streams = 1, datagram } = traffic;
  const { hostAddress } = wired.network;
  const argv = [
    ...['iperf3', '-J', '-c', hostAddress, '-t', String(seconds), '-P', String(streams)],
    ...(datagram === undefined ? [] : ['-u', '-b', '0', '-l', String(datagram)]),
    ...(reverse ? ['-R'] : []),
  ];
  return await server.serve(async () => {
    const idle = readCounters(wired);
    const running = run(wired.guest, argv, seconds * 1000 + GRACE_MS);
    const cost = await countTraffic(wired, idle.bytes, seconds, running);
    return { value: parseIperf(await running), cost };
  });
}

/** What happened over most of a run, from when its packets flow. @param idle bytes before */
async function countTraffic(
  wired: Wired,
  idle: number,
  seconds: number,
  running: Promise<unknown>,
): Promise<NetCounters> {
  let ended = false;
  const end = running
    // The caller sees it.
    .catch(() => {})
    .finally(() => {
      ended = true;
    });
  const late = performance.now() + seconds * 1000 * UNDER_WAY_AT;
  let before = readCounters(wired);
  while (
    !ended &&
    before.bytes - idle < UNDER_WAY_BYTES &&
    (before.bytes === idle || performance.now() < late)
  ) {
    await delay(START_POLL_MS);
    before = readCounters(wired);
  }
  await Promise.race([delay(seconds * 1000 * COUNTED), end]);
  return between(before, readCounters(wired));
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

/** Round-trip times, in microseconds, of this many pings: from the guest, or to one that only answers. */
export async function ping(wired: Wired, count: number): Promise<NetRun<readonly number[]>> {
  const { guest, network, echoes } = wired;
  const argv = ['ping', '-c', String(count), '-i', String(PING_INTERVAL_SECONDS)];
  const before = readCounters(wired);
  const output = echoes
    ? String(await runHere(['busybox', ...argv, network.guestAddress], 'apt-get install busybox'))
    : await run(guest, [...argv, network.hostAddress], GRACE_MS);
  return { value: parsePing(output), cost: between(before, readCounters(wired)) };
}

/** Parses lines such as `64 bytes from 10.0.2.1: seq=0 ttl=64 time=0.512 ms`. @throws Error without any */
export function parsePing(output: string): number[] {
  const times = [...output.matchAll(/ time=([0-9.]+) ms/g)].map((match) => Number(match[1]) * 1000);
  if (times.length === 0) throw new Error(`ping says: ${output.slice(0, 300)}`);
  return times;
}
