/**
 * Packets per second through vhost-user: DPDK's driver (testpmd, net_virtio_user) in front of
 * `nodevmm serve net`, and in front of DPDK's own backend (net_vhost), both polling, on the same
 * two CPUs in turns: those that are not being measured are stopped.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { UsageError } from '../../src/host/errors.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import type { Measure } from '../harness/measure.ts';
import { Child } from '../subjects/child.ts';
import { NODEVMM } from '../subjects/subject.ts';
import { lacksTestpmd, Testpmd, type TestpmdOptions } from '../subjects/testpmd.ts';
import { type Group, measureCases, type Sampler } from './group.ts';

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

/** A network, and how it is reached. */
export interface Setup {
  readonly measure: Measure;
  readonly network: Network;
  readonly packed: boolean;
  /** Bytes. */
  readonly frame: number;
}

/** All measurements. */
export function vhostUserSetups(): Setup[] {
  return FRAMES.flatMap((frame) =>
    NETWORKS.flatMap((network) =>
      [false, true].map((packed): Setup => {
        const name = `${network.name}, ${frame} bytes, ${packed ? 'packed' : 'split'}`;
        const measure = { name, unit: 'million packets/s', better: 'higher' } as const;
        return { network, packed, frame, measure };
      }),
    ),
  );
}

/** The command line of nodevmm's backend. */
export function serveMemoryCommand({ network, frame, packed }: Setup, socket: string): string[] {
  const device = `backend=${network.name},frame=${frame},packed=${packed ? 'on' : 'off'},poll=always`;
  const program = [process.execPath, NODEVMM, 'serve', 'net', device, '--socket', socket];
  return ['taskset', '-c', String(BACKEND_CPU), ...program];
}

/** A backend with a driver in front; stopped unless a sample is taken. */
class Pair implements Sampler {
  readonly #counter: Network['counter'];
  readonly #backend: Child;
  readonly #driver: Testpmd;
  #resources = new AsyncCleanupStack();

  static async open(name: 'nodevmm' | 'DPDK', setup: Setup): Promise<Pair> {
    const { network, frame, packed } = setup;
    await using opened = new AsyncCleanupStack();
    const socket = join(opened.use(new TemporaryFolder('nodevmm-bench-')).path, 'socket');
    const prefix = `nodevmm-${process.pid}-${name}`;
    const peer = {
      ...{ prefix: `${prefix}-peer`, cpu: BACKEND_CPU, mainCpu: DRIVER_CPU },
      ...{ vdev: `net_vhost0,iface=${socket}`, mode: network.peer, frame },
    };
    const backend = opened.use(
      name === 'DPDK' ? new Testpmd(peer) : new Child(serveMemoryCommand(setup, socket)),
    );
    await backend.listens(socket, SOCKET_MS);
    const driver = opened.use(
      new Testpmd({
        ...{ prefix, cpu: DRIVER_CPU, mainCpu: BACKEND_CPU, mode: network.driver, frame },
        vdev: `net_virtio_user0,path=${socket},queue_size=1024,packed_vq=${packed ? 1 : 0}`,
      }),
    );
    const pair = new Pair(network.counter, backend, driver);
    await pair.#traffic();
    pair.#pause(true);
    pair.#resources = opened.move();
    return pair;
  }

  private constructor(counter: Network['counter'], backend: Child, driver: Testpmd) {
    this.#counter = counter;
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
    return (await this.#backend.during('the backend', rates))[this.#counter];
  }

  async #traffic(): Promise<void> {
    const late = performance.now() + TRAFFIC_MS;
    while ((await this.#rate()) === 0) {
      if (performance.now() > late) throw new Error('no packet came through');
      await delay(WAIT_MS);
    }
  }

  #pause(paused: boolean): void {
    const both = [this.#driver, this.#backend];
    for (const one of paused ? both : both.toReversed()) one.pause(paused);
  }

  async close(): Promise<void> {
    this.#pause(false);
    await this.#resources.disposeAsync();
  }
}

export const vhostUserGroup: Group = {
  name: 'vhost-user',
  summary: 'packets over vhost-user, beside DPDK (docs/vhost-user.md)',
  named: true,
  async run(context) {
    const lacking = lacksTestpmd();
    if (lacking !== undefined) throw new UsageError('E_DPDK', lacking);
    if (availableParallelism() < 2) {
      throw new UsageError('E_CPUS', 'both ends poll: it takes two CPUs, and there is one');
    }
    const cases = vhostUserSetups()
      .filter(({ packed }) => !(packed && context.quick))
      .map((setup) => ({
        measure: setup.measure,
        peer: 'DPDK',
        rows: {
          nodevmm: () => Pair.open('nodevmm', setup),
          DPDK: () => Pair.open('DPDK', setup),
        },
      }));
    await measureCases('vhost-user', cases, context, 1);
  },
};
