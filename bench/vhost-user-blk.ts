/**
 * Random 4 KiB reads through vhost-user: the same driver in front of `nodevmm serve blk` and of
 * qemu-storage-daemon, on the same file, io_uring on both, in turns.
 *
 *     nodevmm bench vhost-user-blk
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { VIRTIO_F_VERSION_1, VIRTQ_USED_F_NO_NOTIFY } from '../src/abi/virtio-ring.ts';
import { columns } from '../src/cli/terminal/text-table.ts';
import { EPOLLET, EPOLLIN, Epoll } from '../src/host/epoll.ts';
import { messageOf, PeerError } from '../src/host/errors.ts';
import { signalEventfd } from '../src/host/eventfd.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import { VhostUserRig } from '../src/testing/vhost-user-rig.ts';
import { blkKind } from '../src/vhost-user/front-end/blk-kind.ts';
import { VhostUserDevice } from '../src/vhost-user/front-end/vhost-user-device.ts';
import { featureSet } from '../src/virtio/features.ts';
import { spread } from './harness/statistics.ts';
import { BLOCK, LeanBlkDriver } from './lean-blk-driver.ts';
import { Child } from './subjects/child.ts';
import { NODEVMM } from './subjects/nodevmm-program.ts';

const FILE_SIZE = 256 * MiB;
const QUEUE_SIZE = 128;
const SAMPLES = 15;
const SAMPLE_SECONDS = 0.2;
const WAIT_MS = 5000;

interface Server {
  readonly name: string;
  argv(file: string, direct: boolean, socket: string): string[];
}

const SERVERS: readonly Server[] = [
  {
    name: 'nodevmm',
    argv: (file, direct, socket) => {
      const disk = `${file},engine=io_uring${direct ? ',direct' : ''}`;
      return [process.execPath, NODEVMM, 'serve', 'blk', disk, '--socket', socket];
    },
  },
  {
    name: 'qemu-storage-daemon',
    argv: (file, direct, socket) => [
      ...['qemu-storage-daemon', '--object', 'iothread,id=thread', '--blockdev'],
      `driver=file,node-name=disk,filename=${file},aio=io_uring,cache.direct=${direct ? 'on' : 'off'}`,
      '--export',
      `type=vhost-user-blk,id=disk,node-name=disk,iothread=thread,addr.type=unix,addr.path=${socket}`,
    ],
  },
];

/** A server with a driver in front. */
class Contestant implements AsyncDisposable {
  readonly #child: Child;
  readonly #rig: VhostUserRig;
  readonly #driver: LeanBlkDriver;
  readonly #epoll = new Epoll(1);

  static async open(server: Server, file: string, direct: boolean, depth: number, folder: string) {
    const socket = path.join(folder, `${server.name}.sock`);
    rmSync(socket, { force: true });
    const child = new Child(server.argv(file, direct, socket));
    try {
      await child.makes(socket, 20_000);
      const address = { socket, server: false, timeoutMs: WAIT_MS };
      const device = await VhostUserDevice.open('blk0', address, (session) =>
        blkKind('blk0', session, 1, QUEUE_SIZE),
      );
      const rig = new VhostUserRig(device);
      await rig.start(featureSet(VIRTIO_F_VERSION_1), QUEUE_SIZE);
      return new Contestant(child, rig, depth);
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(child: Child, rig: VhostUserRig, depth: number) {
    this.#child = child;
    this.#rig = rig;
    const [queue] = rig.queues;
    if (queue === undefined) throw new PeerError('E_BENCH', 'the disk has no queue');
    const { kickFd, callFd } = queue.config;
    this.#epoll.add(callFd, EPOLLIN | EPOLLET, 0);
    this.#driver = new LeanBlkDriver({
      queue,
      heap: rig.heap,
      notify: () => {
        if ((queue.deviceArea.getUint16(0, true) & VIRTQ_USED_F_NO_NOTIFY) === 0) {
          signalEventfd(kickFd);
        }
      },
      wait: () => {
        if (this.#epoll.wait(WAIT_MS) === 0) {
          throw new PeerError('E_BENCH', 'no request was answered for a while');
        }
      },
      depth,
      blocks: FILE_SIZE / BLOCK,
      writes: false,
    });
  }

  /** @returns requests a second */
  sample(requests: number): number {
    const start = performance.now();
    this.#driver.run(requests);
    const seconds = (performance.now() - start) / 1000;
    if (!this.#driver.succeeded) throw new PeerError('E_BENCH', 'a request failed');
    return requests / seconds;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#epoll.close();
    await this.#rig[Symbol.asyncDispose]();
    await this.#child[Symbol.asyncDispose]();
  }
}

function makeFile(file: string): void {
  const fd = openSync(file, 'w');
  const chunk = Buffer.alloc(MiB, 0x5a);
  for (let at = 0; at < FILE_SIZE; at += MiB) writeSync(fd, chunk);
  closeSync(fd);
}

const kilo = (value: number): string => (value / 1000).toFixed(1);
const shown = (values: readonly number[]): string => {
  const { low, median, high } = spread(values);
  return `${kilo(median)} (${kilo(low)} to ${kilo(high)})`;
};

const HEAD = ['file', 'depth', ...SERVERS.map(({ name }) => `${name}, kIOPS`.padEnd(28)), 'ratio'];
const line = (cells: readonly string[]): string =>
  `${columns(
    cells,
    HEAD.map((cell) => Math.max(cell.length, 10)),
  ).join('\n')}\n`;

async function compare(file: string, direct: boolean, depth: number, folder: string) {
  const contestants: Contestant[] = [];
  const samples = SERVERS.map((): number[] => []);
  try {
    for (const server of SERVERS) {
      contestants.push(await Contestant.open(server, file, direct, depth, folder));
    }
    const sizes = contestants.map((contestant) =>
      Math.max(depth, Math.round(contestant.sample(1000) * SAMPLE_SECONDS)),
    );
    for (let round = 0; round < SAMPLES; round++) {
      for (const [i, contestant] of contestants.entries()) {
        samples[i]?.push(contestant.sample(sizes[i] as number));
      }
    }
  } finally {
    for (const contestant of contestants) await contestant[Symbol.asyncDispose]();
  }
  const [own = [], peer = []] = samples;
  const ratio = (spread(own).median / spread(peer).median).toFixed(2);
  const name = direct ? 'O_DIRECT' : 'page cache';
  process.stdout.write(line([name, String(depth), ...samples.map(shown), ratio]));
}

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-bench-'));
try {
  const file = path.join(folder, 'disk');
  makeFile(file);
  process.stdout.write(line(HEAD));
  for (const direct of [false, true]) {
    for (const depth of [32, 1]) await compare(file, direct, depth, folder);
  }
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
