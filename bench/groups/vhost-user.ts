/**
 * Packets per second through vhost-user: DPDK's driver (testpmd, net_virtio_user) in front of
 * `nodevmm serve net`, and in front of DPDK's own backend (net_vhost), both polling, on the same
 * two CPUs in turns: those that are not being measured are stopped.
 */
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { UsageError } from '../../src/host/errors.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import type { Measure, Result } from '../harness/measure.ts';
import { type Contestant, measureInRounds, type Sample, type Span } from '../harness/rounds.ts';
import { Child } from '../subjects/child.ts';
import { NODEVMM } from '../subjects/nodevmm-program.ts';
import { lacksTestpmd, Testpmd, type TestpmdOptions } from '../subjects/testpmd.ts';
import { type Group, type GroupContext, partOf } from './group.ts';

/** The CPUs of the backend's thread and of the driver's. */
const BACKEND_CPU = 0;
const DRIVER_CPU = 1;
const SOCKET_MS = 20_000;
const TRAFFIC_MS = 30_000;
/** From resuming to the start of a sample: caches, and queues that filled meanwhile. */
const SETTLE_MS = 50;
const WAIT_MS = 50;

/** The behavior of the network behind the backend, and its name at both ends of DPDK. */
interface Network {
  readonly name: 'sink' | 'source' | 'echo';
  readonly driver: TestpmdOptions['mode'];
  readonly peer: TestpmdOptions['mode'];
  readonly counter: 'received' | 'transmitted';
}

const NETWORKS: readonly Network[] = [
  { name: 'sink', driver: 'txonly', peer: 'rxonly', counter: 'transmitted' },
  { name: 'source', driver: 'rxonly', peer: 'txonly', counter: 'received' },
  { name: 'echo', driver: 'flowgen', peer: 'io', counter: 'received' },
];
const FRAMES: readonly number[] = [64, 1500];

/** A separate measurement. */
export interface Case {
  readonly measure: Measure;
  /** The same in bits of frames. */
  readonly bits: Measure;
  readonly network: Network;
  readonly packed: boolean;
  /** Bytes. */
  readonly frame: number;
}

/** All measurements. */
export function vhostUserCases(): Case[] {
  return FRAMES.flatMap((frame) =>
    NETWORKS.flatMap((network) =>
      [false, true].map((packed): Case => {
        const name = `${network.name}, ${frame} bytes, ${packed ? 'packed' : 'split'}`;
        return {
          ...{ network, packed, frame },
          measure: { name, unit: 'million packets/s', better: 'higher' },
          bits: {
            name: `${name}: frames`,
            unit: 'Gbit/s',
            better: 'higher',
            aspect: { of: name, label: 'frames' },
          },
        };
      }),
    ),
  );
}

/** The command line of nodevmm's backend. */
export function serveMemoryCommand({ network, frame, packed }: Case, socket: string): string[] {
  const device = `backend=${network.name},frame=${frame},packed=${packed ? 'on' : 'off'}`;
  const program = [process.execPath, NODEVMM, 'serve', 'net', device, '--socket', socket, '--poll'];
  return ['taskset', '-c', String(BACKEND_CPU), ...program];
}

/** A backend with a driver in front; stopped unless a sample is taken. */
class Pair implements Contestant, AsyncDisposable {
  readonly name: string;
  readonly reference: boolean;
  readonly #case: Case;
  readonly #backend: Child;
  readonly #driver: Testpmd;

  static async open(reference: boolean, what: Case, folder: string): Promise<Pair> {
    const { network, frame, packed } = what;
    const name = reference ? 'DPDK' : 'nodevmm';
    const socket = join(folder, `${name}.sock`);
    rmSync(socket, { force: true });
    const prefix = `nodevmm-${process.pid}-${name}`;
    const backend = reference
      ? new Testpmd({
          ...{ prefix: `${prefix}-peer`, cpu: BACKEND_CPU, mainCpu: DRIVER_CPU },
          ...{ vdev: `net_vhost0,iface=${socket}`, mode: network.peer, frame },
        })
      : new Child(serveMemoryCommand(what, socket));
    let driver: Testpmd | undefined;
    try {
      await backend.makes(socket, SOCKET_MS);
      driver = new Testpmd({
        ...{ prefix, cpu: DRIVER_CPU, mainCpu: BACKEND_CPU, mode: network.driver, frame },
        vdev: `net_virtio_user0,path=${socket},queue_size=1024,packed_vq=${packed ? 1 : 0}`,
      });
      const pair = new Pair(name, reference, what, backend, driver);
      await pair.#traffic();
      pair.#pause(true);
      return pair;
    } catch (error) {
      await driver?.[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(
    name: string,
    reference: boolean,
    what: Case,
    backend: Child,
    driver: Testpmd,
  ) {
    this.name = name;
    this.reference = reference;
    this.#case = what;
    this.#backend = backend;
    this.#driver = driver;
  }

  /** @returns millions of packets per second */
  async sample(seconds: number): Promise<number> {
    this.#pause(false);
    try {
      await delay(SETTLE_MS);
      await this.#rate();
      await delay(seconds * 1000);
      return (await this.#rate()) / 1e6;
    } finally {
      this.#pause(true);
    }
  }

  /** Packets per second since the last call. */
  async #rate(): Promise<number> {
    const rates = this.#driver.rates();
    return (await this.#backend.during('the backend', rates))[this.#case.network.counter];
  }

  async #traffic(): Promise<void> {
    const late = performance.now() + TRAFFIC_MS;
    while ((await this.#rate()) === 0) {
      if (performance.now() > late) throw new Error(`${this.name}: no packet came through`);
      await delay(WAIT_MS);
    }
  }

  #pause(paused: boolean): void {
    const both = [this.#driver, this.#backend];
    for (const one of paused ? both : both.toReversed()) one.pause(paused);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#backend.pause(false);
    await this.#driver[Symbol.asyncDispose]();
    await this.#backend[Symbol.asyncDispose]();
  }
}

async function compare(
  what: Case,
  span: Span,
  folder: string,
  context: GroupContext,
): Promise<Result[]> {
  const { measure, bits, frame } = what;
  const contestants: Pair[] = [];
  try {
    context.progress(`vhost-user: ${measure.name}: starting`, span[0]);
    for (const reference of [false, true]) {
      contestants.push(await Pair.open(reference, what, folder));
    }
    const take = async (pair: Pair): Promise<Sample> => {
      const millions = await pair.sample(context.seconds);
      return { [measure.name]: millions, [bits.name]: (millions * frame * 8) / 1e3 };
    };
    const measures = [measure, bits];
    const taking = { group: 'vhost-user', measures, contestants, take, span };
    return await measureInRounds(taking, context);
  } finally {
    for (const pair of contestants) await pair[Symbol.asyncDispose]();
  }
}

export const vhostUserGroup: Group = {
  name: 'vhost-user',
  summary: 'packets over vhost-user, beside DPDK (docs/vhost-user.md)',
  guests: false,
  named: true,
  images: () => [],
  async run(context: GroupContext): Promise<void> {
    const lacking = lacksTestpmd();
    if (lacking !== undefined) throw new UsageError('E_DPDK', lacking);
    if (availableParallelism() < 2) {
      throw new UsageError('E_CPUS', 'both ends poll: it takes two CPUs, and there is one');
    }
    const cases = vhostUserCases().filter(
      ({ measure, packed }) => !(packed && context.quick) && !context.skips(measure.name),
    );
    using folder = new TemporaryFolder('nodevmm-bench-');
    for (const [index, one] of cases.entries()) {
      const span = partOf(index, cases.length);
      context.report(await compare(one, span, folder.path, context));
    }
  },
};
