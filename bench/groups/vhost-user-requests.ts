/**
 * Requests per second through vhost-user: one driver, in this process, in front of `nodevmm serve` and
 * of another program that serves the same file or folder, in turns.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import * as fuse from '../../src/abi/fuse.ts';
import {
  featureSet,
  VIRTIO_F_VERSION_1,
  VIRTQ_USED_F_NO_NOTIFY,
} from '../../src/abi/virtio-ring.ts';
import { findProgram } from '../../src/guest/programs.ts';
import { EPOLLET, EPOLLIN, Epoll } from '../../src/host/epoll.ts';
import { PeerError, UsageError } from '../../src/host/errors.ts';
import { signalEventfd } from '../../src/host/fd.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { fullBarrier } from '../../src/testing/driver-queue.ts';
import { VhostUserRig } from '../../src/testing/vhost-user-rig.ts';
import { VhostUserDevice } from '../../src/vhost-user/frontend/vhost-user-device.ts';
import { blkKind } from '../../src/virtio/device/blk/frontend-blk.ts';
import { fsKind } from '../../src/virtio/device/fs/fs.ts';
import type { Measure } from '../harness/measure.ts';
import { type Contestant, measureInRounds } from '../harness/rounds.ts';
import { Child } from '../subjects/child.ts';
import { NODEVMM } from '../subjects/nodevmm-program.ts';
import { type Group, type GroupContext, manySamples, partOf } from './group.ts';
import { type DevicePort, diskReads, RequestDriver, type RequestShape } from './requests.ts';

/** Bytes of the file that is read. */
const FILE_SIZE = 256 * MiB;
const QUEUE_SIZE = 256;
const SAMPLES_PER_ROUND = 4;
const WARM_UP = 1000;
const WAIT_MS = 5000;
const SOCKET_MS = 20_000;
const SETTLE_MS = 100;
/**
 * The CPUs of the programs and of the driver. Left alone, the scheduler sometimes puts both on one
 * CPU, which makes waking cheap and polling useless: results then differ by a half.
 */
const SERVER_CPU = '0';
const DRIVER_CPU = '1';

/** What a group measures. */
interface Case {
  readonly measure: Measure;
  readonly depth: number;
  /** The programs' command lines by row; nodevmm's first. @param socket where it listens */
  readonly commands: Readonly<Record<string, (socket: string) => readonly string[]>>;
  /** The device, and its queue that takes requests. */
  readonly device: 'blk' | 'fs';
  /** The driver's setup of the device, and the requests to measure. */
  readonly begin: (port: DevicePort) => RequestShape;
}

/** A program that serves, and the driver in front of it. */
class Server implements Contestant, AsyncDisposable {
  readonly name: string;
  readonly reference: boolean;
  readonly peer?: string;
  readonly #child: Child;
  readonly #rig: VhostUserRig;
  readonly #epoll = new Epoll(1);
  readonly #driver: RequestDriver;
  readonly #rate: number;

  static async open(name: string, peer: string, one: Case, folder: string): Promise<Server> {
    const socket = join(folder, `${name}.sock`);
    const argv = one.commands[name]?.(socket) ?? [];
    const child = new Child(['taskset', '-c', SERVER_CPU, ...argv]);
    try {
      await child.makes(socket, SOCKET_MS);
      const address = { socket, server: false, timeoutMs: WAIT_MS };
      const device = await VhostUserDevice.open('bench0', address, async (session) =>
        one.device === 'blk'
          ? await blkKind('bench0', session, 1, QUEUE_SIZE)
          : fsKind('bench', 1, QUEUE_SIZE),
      );
      const rig = new VhostUserRig(device);
      await rig.start(featureSet(VIRTIO_F_VERSION_1), QUEUE_SIZE);
      // The frontend's last messages are sent from the event loop, to which the driver does not return.
      await delay(SETTLE_MS);
      return new Server(name, peer, child, rig, one);
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(name: string, peer: string, child: Child, rig: VhostUserRig, one: Case) {
    this.name = name;
    this.reference = name === peer;
    if (!this.reference) this.peer = peer;
    this.#child = child;
    this.#rig = rig;
    const queue = rig.queues[one.device === 'blk' ? 0 : 1];
    if (queue === undefined) throw new PeerError('E_BENCH', `${name} has no queue of requests`);
    this.#epoll.add(queue.config.callFd, EPOLLIN | EPOLLET, 0);
    const port: DevicePort = {
      ...{ queue, heap: rig.heap },
      notify: () => {
        fullBarrier();
        if ((queue.deviceArea.getUint16(0, true) & VIRTQ_USED_F_NO_NOTIFY) === 0) {
          signalEventfd(queue.config.kickFd);
        }
      },
      wait: () => {
        if (this.#epoll.wait(WAIT_MS) === 0) {
          throw new PeerError('E_BENCH', `${name} completed no request in ${WAIT_MS / 1000} s`);
        }
      },
    };
    this.#driver = new RequestDriver(port, one.depth, one.begin(port));
    this.#driver.run(WARM_UP);
    this.#rate = this.#driver.rate(WARM_UP);
  }

  /** Requests per second. */
  sample(seconds: number): number {
    return this.#driver.rate(Math.max(1, Math.round(this.#rate * seconds)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#epoll.close();
    await this.#rig[Symbol.asyncDispose]();
    await this.#child[Symbol.asyncDispose]();
  }
}

/** Keeps this process on the driver's CPU. */
function pinned(): Disposable {
  const before = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'));
  const pin = (cpus: string): void =>
    void execFileSync('taskset', ['-acp', cpus, String(process.pid)]);
  pin(DRIVER_CPU);
  return { [Symbol.dispose]: () => pin(before?.[1] ?? `${SERVER_CPU},${DRIVER_CPU}`) };
}

async function measureCases(group: string, cases: Case[], folder: string, context: GroupContext) {
  using _pin = pinned();
  const wanted = cases.filter(({ measure }) => !context.skips(measure.name));
  for (const [index, one] of wanted.entries()) {
    const { measure } = one;
    const contestants: Server[] = [];
    try {
      const names = Object.keys(one.commands);
      const peer = names.at(-1) ?? '';
      for (const name of names) contestants.push(await Server.open(name, peer, one, folder));
      const seconds = context.seconds / (2 * SAMPLES_PER_ROUND);
      const take = async (server: Server) => ({
        [measure.name]: manySamples(SAMPLES_PER_ROUND, () => server.sample(seconds)),
      });
      const span = partOf(index, wanted.length);
      context.report(
        await measureInRounds({ group, measures: [measure], contestants, take, span }, context),
      );
    } finally {
      for (const server of contestants) await server[Symbol.asyncDispose]();
    }
  }
}

const SERVE = [process.execPath, NODEVMM, 'serve'] as const;

const rate = (name: string, depth: number): Measure => ({
  name: `${name}, depth ${depth}`,
  unit: 'requests/s',
  better: 'higher',
});

function diskCases(file: string): Case[] {
  return [false, true].flatMap((direct) =>
    [32, 1].map((depth): Case => {
      const disk = `${file},engine=io_uring${direct ? ',direct' : ''}`;
      const node = `driver=file,node-name=disk,filename=${file},aio=io_uring`;
      const exported = 'type=vhost-user-blk,id=disk,node-name=disk,iothread=thread,addr.type=unix';
      return {
        ...{ depth, device: 'blk', begin: () => diskReads(FILE_SIZE) },
        measure: rate(`4 KiB reads, ${direct ? 'O_DIRECT' : 'page cache'}`, depth),
        commands: {
          nodevmm: (socket) => [...SERVE, 'blk', disk, '--socket', socket],
          'qemu-storage-daemon': (socket) => [
            ...['qemu-storage-daemon', '--object', 'iothread,id=thread'],
            ...['--blockdev', `${node},cache.direct=${direct ? 'on' : 'off'}`],
            ...['--export', `${exported},addr.path=${socket}`],
          ],
        },
      };
    }),
  );
}

export const vhostUserBlkGroup: Group = {
  name: 'vhost-user-blk',
  summary: 'disk reads over vhost-user, beside qemu-storage-daemon (docs/vhost-user.md)',
  guests: false,
  named: true,
  images: () => [],
  async run(context: GroupContext): Promise<void> {
    if (findProgram('qemu-storage-daemon') === undefined) {
      throw new UsageError('E_BENCH', 'no qemu-storage-daemon; apt-get install qemu-system-common');
    }
    using folder = new TemporaryFolder('nodevmm-bench-');
    const file = join(folder.path, 'disk');
    writeFileSync(file, Buffer.alloc(FILE_SIZE, 0x5a));
    await measureCases('vhost-user-blk', diskCases(file), folder.path, context);
  },
};

const words = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);

/** A request of FUSE and room for its answer. */
function fuseRequest(
  opcode: number,
  nodeid: bigint,
  body: Uint8Array,
  room: number,
  prepare: (body: DataView) => void = () => {},
): RequestShape {
  const { fuse_in_header: header, fuse_out_header: answer } = fuse;
  const head = new DataView(new ArrayBuffer(header.size));
  head.setUint32(header.len.offset, header.size + body.length, true);
  head.setUint32(header.opcode.offset, opcode, true);
  // 0 marks what is not a reply.
  head.setUint32(header.unique.offset, 1, true);
  head.setBigUint64(header.nodeid.offset, nodeid, true);
  return {
    readable: [new Uint8Array(head.buffer), body],
    writable: [answer.size, room],
    prepare: ([, args]) => args !== undefined && prepare(args),
    succeeded: ([, , head]) =>
      head?.getUint32(0, true) === answer.size + room && head.getInt32(4, true) === 0,
  };
}

/** Runs one request. @returns the first word of its answer */
function ask(port: DevicePort, shape: RequestShape): bigint {
  const driver = new RequestDriver(port, 1, shape);
  driver.run(1);
  return driver.views[0]?.[3]?.getBigUint64(0, true) ?? 0n;
}

/** Mounts, and looks the file up. */
function mount(port: DevicePort): { lookup: RequestShape; nodeid: bigint } {
  const init = words(7, 31, 2 ** 17, 2 ** 22);
  ask(port, fuseRequest(fuse.FUSE_INIT, 0n, init, fuse.fuse_init_out.size));
  const name = Buffer.from('file\0');
  const lookup = fuseRequest(fuse.FUSE_LOOKUP, 1n, name, fuse.fuse_entry_out.size);
  return { lookup, nodeid: ask(port, lookup) };
}

/** READs of an open file, at random or one after the other. */
function reads(port: DevicePort, bytes: number, random: boolean): RequestShape {
  const { nodeid } = mount(port);
  const open = fuseRequest(fuse.FUSE_OPEN, nodeid, words(0, 0), fuse.fuse_open_out.size);
  const { fuse_read_in: read } = fuse;
  const args = new DataView(new ArrayBuffer(read.size));
  args.setBigUint64(0, ask(port, open), true);
  args.setUint32(read.size_.offset, bytes, true);
  const places = FILE_SIZE / bytes;
  let next = 0;
  return fuseRequest(fuse.FUSE_READ, nodeid, new Uint8Array(args.buffer), bytes, (body) => {
    const place = random ? Math.floor(Math.random() * places) : next++ % places;
    body.setUint32(read.offset.offset, place * bytes, true);
  });
}

function folderCases(shared: string, virtiofsd: string): Case[] {
  const one = (name: string, depth: number, begin: Case['begin']): Case => ({
    ...{ measure: rate(name, depth), depth, begin, device: 'fs' },
    commands: {
      nodevmm: (socket) => [...SERVE, 'fs', shared, '--socket', socket],
      virtiofsd: (socket) => [
        ...[virtiofsd, `--socket-path=${socket}`],
        ...['-o', `source=${shared},cache=auto,sandbox=chroot`],
      ],
    },
  });
  const small = (port: DevicePort) => reads(port, 4096, true);
  const lookup = (port: DevicePort) => mount(port).lookup;
  return [
    ...[1, 32].map((depth) => one('random READ of 4 KiB', depth, small)),
    one('sequential READ of 128 KiB', 4, (port) => reads(port, 128 * 1024, false)),
    ...[1, 32].map((depth) => one('LOOKUP', depth, lookup)),
  ];
}

export const vhostUserFsGroup: Group = {
  name: 'vhost-user-fs',
  summary: 'FUSE requests over vhost-user, beside virtiofsd (docs/fs.md)',
  guests: false,
  named: true,
  images: () => [],
  async run(context: GroupContext): Promise<void> {
    const virtiofsd = findProgram('virtiofsd');
    if (virtiofsd === undefined || process.getuid?.() !== 0) {
      throw new UsageError('E_BENCH', 'needs virtiofsd and root; apt-get install virtiofsd');
    }
    using folder = new TemporaryFolder('nodevmm-bench-');
    const shared = join(folder.path, 'shared');
    mkdirSync(shared);
    writeFileSync(join(shared, 'file'), Buffer.alloc(FILE_SIZE, 0x5a));
    await measureCases('vhost-user-fs', folderCases(shared, virtiofsd), folder.path, context);
  },
};
