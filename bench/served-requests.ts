/** Programs that serve one device over vhost-user, each with a driver in front, measured in turns. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { VIRTIO_F_VERSION_1, VIRTQ_USED_F_NO_NOTIFY } from '../src/abi/virtio-ring.ts';
import { columns } from '../src/cli/terminal/text-table.ts';
import { EPOLLET, EPOLLIN, Epoll } from '../src/host/epoll.ts';
import { messageOf, PeerError } from '../src/host/errors.ts';
import { signalEventfd } from '../src/host/fd.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import type { DriverQueue } from '../src/testing/driver-queue.ts';
import { fullBarrier } from '../src/testing/full-barrier.ts';
import { VhostUserRig } from '../src/testing/vhost-user-rig.ts';
import type { DeviceKind } from '../src/vhost-user/frontend/kind.ts';
import type { Session } from '../src/vhost-user/frontend/link.ts';
import { VhostUserDevice } from '../src/vhost-user/frontend/vhost-user-device.ts';
import { featureSet } from '../src/virtio/features.ts';
import { spread } from './harness/statistics.ts';
import type { LeanRequestsOptions } from './lean-requests.ts';
import { Child } from './subjects/child.ts';

/** Bytes of the file that is read. */
export const FILE_SIZE = 256 * MiB;
const SAMPLES = 15;
const SAMPLE_SECONDS = 0.2;
const WAIT_MS = 5000;
const SOCKET_MS = 20_000;
/**
 * Where the programs run, and where the driver does. Left alone, the scheduler puts both on one CPU
 * at times, which makes waking cheap and polling useless: figures differ by a half then.
 */
const SERVER_CPU = 0;
const DRIVER_CPU = 1;

/** What is set up with a server. */
export interface Serving {
  readonly argv: readonly string[];
  readonly socket: string;
  /** The device that the program serves. */
  readonly kindOf: (session: Session) => Promise<DeviceKind>;
  /** Which of its queues is used, and its size. */
  readonly queue: number;
  readonly queueSize: number;
}

/** A driver's requests, of which the last ones are known to have gone well or not. */
export interface Requests {
  run(requests: number): void;
  readonly succeeded: boolean;
}

/** A program that serves, and what a driver in front of it needs. */
export class RequestServer implements AsyncDisposable {
  readonly rig: VhostUserRig;
  readonly queue: DriverQueue;
  readonly #child: Child;
  readonly #epoll = new Epoll(1);

  static async open({ argv, socket, kindOf, queue, queueSize }: Serving): Promise<RequestServer> {
    rmSync(socket, { force: true });
    const child = new Child(['taskset', '-c', String(SERVER_CPU), ...argv]);
    try {
      await child.makes(socket, SOCKET_MS);
      const address = { socket, server: false, timeoutMs: WAIT_MS };
      const rig = new VhostUserRig(await VhostUserDevice.open('bench0', address, kindOf));
      await rig.start(featureSet(VIRTIO_F_VERSION_1), queueSize);
      return new RequestServer(child, rig, queue);
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(child: Child, rig: VhostUserRig, index: number) {
    this.#child = child;
    this.rig = rig;
    const queue = rig.queues[index];
    if (queue === undefined) throw new PeerError('E_BENCH', `the device has no queue ${index}`);
    this.queue = queue;
    this.#epoll.add(queue.config.callFd, EPOLLIN | EPOLLET, 0);
  }

  /** How a driver reaches the device. */
  options(depth: number): LeanRequestsOptions {
    const { queue, rig } = this;
    return {
      queue,
      heap: rig.heap,
      notify: () => {
        fullBarrier();
        if ((queue.deviceArea.getUint16(0, true) & VIRTQ_USED_F_NO_NOTIFY) === 0) {
          signalEventfd(queue.config.kickFd);
        }
      },
      wait: () => {
        if (this.#epoll.wait(WAIT_MS) === 0) {
          throw new PeerError('E_BENCH', 'no request was answered for a while');
        }
      },
      depth,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#epoll.close();
    await this.rig[Symbol.asyncDispose]();
    await this.#child[Symbol.asyncDispose]();
  }
}

/** A benchmark's whole program: on the driver's CPU, with a folder that is gone afterwards; its status tells. */
export async function benchInFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-bench-'));
  try {
    execFileSync('taskset', ['-acp', String(DRIVER_CPU), String(process.pid)]);
    await work(folder);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exitCode = 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Where a server of that name listens. */
export const socketOf = (folder: string, name: string): string => path.join(folder, `${name}.sock`);

/** Makes the file that is read. */
export function makeFile(file: string): void {
  const fd = openSync(file, 'w');
  const chunk = Buffer.alloc(MiB, 0x5a);
  for (let at = 0; at < FILE_SIZE; at += MiB) writeSync(fd, chunk);
  closeSync(fd);
}

/** Requests a second of so many. */
function sample(driver: Requests, requests: number): number {
  const start = performance.now();
  driver.run(requests);
  const seconds = (performance.now() - start) / 1000;
  if (!driver.succeeded) throw new PeerError('E_BENCH', 'a request failed');
  return requests / seconds;
}

/**
 * Starts the programs, and has the drivers in front of them work in turns.
 * @param prepare makes the driver of each
 * @param warmUp requests before the first sample
 * @returns requests a second, samples by program
 */
export async function measureServers(
  servings: readonly Serving[],
  prepare: (server: RequestServer) => Requests,
  depth: number,
  warmUp: number,
): Promise<number[][]> {
  const servers: RequestServer[] = [];
  try {
    for (const serving of servings) servers.push(await RequestServer.open(serving));
    return inTurns(servers.map(prepare), depth, warmUp);
  } finally {
    for (const server of servers) await server[Symbol.asyncDispose]();
  }
}

function inTurns(drivers: readonly Requests[], depth: number, warmUp: number): number[][] {
  const samples = drivers.map((): number[] => []);
  const sizes = drivers.map((driver) =>
    Math.max(depth, Math.round(sample(driver, warmUp) * SAMPLE_SECONDS)),
  );
  for (let round = 0; round < SAMPLES; round++) {
    for (const [i, driver] of drivers.entries()) {
      samples[i]?.push(sample(driver, sizes[i] as number));
    }
  }
  return samples;
}

const kilo = (value: number): string => (value / 1000).toFixed(1);

/** Thousands a second: the median, and the range. */
function shown(values: readonly number[]): string {
  const { low, median, high } = spread(values);
  return `${kilo(median)} (${kilo(low)} to ${kilo(high)})`;
}

/** Prints rows below a head, which gives the columns their widths. */
export class ResultTable {
  readonly #widths: readonly number[];

  /** @param narrowest characters of a column at least */
  constructor(head: readonly string[], narrowest: number) {
    this.#widths = head.map((cell) => Math.max(cell.length, narrowest));
    this.#print(head);
  }

  /** @param samples of ours, then of the peer */
  row(what: readonly string[], samples: readonly (readonly number[])[]): void {
    const [own = [], peer = []] = samples;
    const ratio = (spread(own).median / spread(peer).median).toFixed(2);
    this.#print([...what, ...samples.map(shown), ratio]);
  }

  #print(cells: readonly string[]): void {
    process.stdout.write(`${columns(cells, this.#widths).join('\n')}\n`);
  }
}
