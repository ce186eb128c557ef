/**
 * Requests of FUSE through vhost-user: the same driver in front of `nodevmm serve fs` and of
 * virtiofsd, on the same folder, in turns.
 *
 *     nodevmm bench vhost-user-fs
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import * as fuse from '../src/abi/fuse.ts';
import { VIRTIO_F_VERSION_1, VIRTQ_USED_F_NO_NOTIFY } from '../src/abi/virtio-ring.ts';
import { columns } from '../src/cli/terminal/text-table.ts';
import { EPOLLET, EPOLLIN, Epoll } from '../src/host/epoll.ts';
import { messageOf, PeerError, UsageError } from '../src/host/errors.ts';
import { signalEventfd } from '../src/host/eventfd.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import type { DriverQueue } from '../src/testing/driver-queue.ts';
import { VhostUserRig } from '../src/testing/vhost-user-rig.ts';
import { fsKind } from '../src/vhost-user/front-end/fs-kind.ts';
import { VhostUserDevice } from '../src/vhost-user/front-end/vhost-user-device.ts';
import { featureSet } from '../src/virtio/features.ts';
import { spread } from './harness/statistics.ts';
import { LeanFuseDriver, type LeanFuseRequest } from './lean-fuse-driver.ts';
import { Child } from './subjects/child.ts';
import { NODEVMM } from './subjects/nodevmm-program.ts';

const FILE_SIZE = 256 * MiB;
const QUEUE_SIZE = 256;
const SAMPLES = 15;
const SAMPLE_SECONDS = 0.2;
/** Requests before the first sample. */
const WARM_UP = 20_000;
const WAIT_MS = 5000;
const REQUEST_QUEUE = 1;

interface Server {
  readonly name: string;
  argv(folder: string, socket: string): string[];
}

/** Packages have it beside their own programs. */
const VIRTIOFSD = ['/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd'].find(existsSync);

const SERVERS: readonly Server[] = [
  {
    name: 'nodevmm',
    argv: (folder, socket) => [
      process.execPath,
      NODEVMM,
      'serve',
      'fs',
      folder,
      '--socket',
      socket,
    ],
  },
  {
    name: 'virtiofsd',
    argv: (folder, socket) => [
      VIRTIOFSD ?? 'virtiofsd',
      `--socket-path=${socket}`,
      ...['-o', `source=${folder},cache=auto,sandbox=chroot`],
    ],
  },
];

interface Case {
  readonly name: string;
  readonly depth: number;
  /** Bytes of a READ, 0 for another request. */
  readonly bytes: number;
  readonly random: boolean;
}

const CASES: readonly Case[] = [
  { name: 'random READ, 4 KiB', depth: 1, bytes: 4096, random: true },
  { name: 'random READ, 4 KiB', depth: 32, bytes: 4096, random: true },
  { name: 'sequential READ, 128 KiB', depth: 4, bytes: 128 * 1024, random: false },
  { name: 'LOOKUP', depth: 1, bytes: 0, random: false },
  { name: 'LOOKUP', depth: 32, bytes: 0, random: false },
];

/** A server with a driver in front. */
class Contestant implements AsyncDisposable {
  readonly #child: Child;
  readonly #rig: VhostUserRig;
  readonly #queue: DriverQueue;
  readonly #epoll = new Epoll(1);
  #driver: LeanFuseDriver | undefined;

  static async open(server: Server, shared: string, folder: string): Promise<Contestant> {
    const socket = path.join(folder, `${server.name}.sock`);
    rmSync(socket, { force: true });
    const child = new Child(server.argv(shared, socket));
    try {
      await child.makes(socket, 20_000);
      const address = { socket, server: false, timeoutMs: WAIT_MS };
      const device = await VhostUserDevice.open('fs0', address, async () =>
        fsKind('bench', 1, QUEUE_SIZE),
      );
      const rig = new VhostUserRig(device);
      await rig.start(featureSet(VIRTIO_F_VERSION_1), QUEUE_SIZE);
      return new Contestant(child, rig);
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(child: Child, rig: VhostUserRig) {
    this.#child = child;
    this.#rig = rig;
    const queue = rig.queues[REQUEST_QUEUE];
    if (queue === undefined) throw new PeerError('E_BENCH', 'the device has no request queue');
    this.#queue = queue;
    this.#epoll.add(queue.config.callFd, EPOLLIN | EPOLLET, 0);
  }

  /** Mounts, opens the file, and gets ready for requests of one kind. */
  prepare({ bytes, depth, random }: Case): void {
    const words = (...values: number[]): Uint8Array =>
      new Uint8Array(Uint32Array.from(values).buffer);
    const mount = words(7, 31, 2 ** 17, 2 ** 22);
    this.#drive(fuse.FUSE_INIT, 0n, mount, fuse.fuse_init_out.size, 1).run(1);
    const name = Buffer.from('file\0');
    const entry = fuse.fuse_entry_out.size;
    const lookup = this.#drive(fuse.FUSE_LOOKUP, 1n, name, entry, bytes === 0 ? depth : 1);
    lookup.run(depth);
    if (bytes === 0) return;
    const nodeid = lookup.answer.getBigUint64(0, true);
    const open = this.#drive(fuse.FUSE_OPEN, nodeid, words(0, 0), fuse.fuse_open_out.size, 1);
    open.run(1);
    const args = new Uint8Array(fuse.fuse_read_in.size);
    const view = new DataView(args.buffer);
    view.setBigUint64(0, open.answer.getBigUint64(0, true), true);
    view.setUint32(fuse.fuse_read_in.size_.offset, bytes, true);
    const file = { fileSize: FILE_SIZE, random };
    this.#drive(fuse.FUSE_READ, nodeid, args, bytes, depth, file).run(depth);
  }

  #drive(
    opcode: number,
    nodeid: bigint,
    body: Uint8Array,
    room: number,
    depth: number,
    file: Pick<LeanFuseRequest, 'fileSize' | 'random'> = {},
  ): LeanFuseDriver {
    const queue = this.#queue;
    const options = {
      queue,
      heap: this.#rig.heap,
      notify: () => {
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
    const request = { opcode, nodeid, body, room, ...file };
    const driver = new LeanFuseDriver(options, request, queueTurn(queue));
    this.#driver = driver;
    return driver;
  }

  /** @returns requests a second */
  sample(requests: number): number {
    const driver = this.#driver;
    const start = performance.now();
    driver?.run(requests);
    const seconds = (performance.now() - start) / 1000;
    if (driver?.succeeded !== true) throw new PeerError('E_BENCH', 'a request failed');
    return requests / seconds;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#epoll.close();
    await this.#rig[Symbol.asyncDispose]();
    await this.#child[Symbol.asyncDispose]();
  }
}

/** Where the next driver of a queue goes on. */
const queueTurn = (queue: DriverQueue): number => queue.driverArea.getUint16(2, true);

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

const HEAD = [
  'request'.padEnd(24),
  'depth',
  ...SERVERS.map(({ name }) => `${name}, thousand/s`.padEnd(28)),
  'ratio',
];
const line = (cells: readonly string[]): string =>
  `${columns(
    cells,
    HEAD.map((cell) => Math.max(cell.length, 6)),
  ).join('\n')}\n`;

async function compare(wanted: Case, shared: string, folder: string): Promise<void> {
  const contestants: Contestant[] = [];
  const samples = SERVERS.map((): number[] => []);
  try {
    for (const server of SERVERS) {
      contestants.push(await Contestant.open(server, shared, folder));
    }
    for (const contestant of contestants) contestant.prepare(wanted);
    const sizes = contestants.map((contestant) =>
      Math.max(wanted.depth, Math.round(contestant.sample(WARM_UP) * SAMPLE_SECONDS)),
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
  process.stdout.write(line([wanted.name, String(wanted.depth), ...samples.map(shown), ratio]));
}

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-bench-'));
try {
  if (VIRTIOFSD === undefined || process.getuid?.() !== 0) {
    throw new UsageError('E_BENCH', 'virtiofsd is wanted, and root for it; install virtiofsd');
  }
  const shared = path.join(folder, 'shared');
  mkdirSync(shared);
  makeFile(path.join(shared, 'file'));
  process.stdout.write(line(HEAD));
  for (const wanted of CASES) await compare(wanted, shared, folder);
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
