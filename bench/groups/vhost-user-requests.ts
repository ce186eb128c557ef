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
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
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
import type { ShareMode } from '../../src/virtio/frontend-device.ts';
import type { Measure } from '../harness/measure.ts';
import { Child } from '../subjects/child.ts';
import { NODEVMM } from '../subjects/subject.ts';
import { type Case, type Group, type GroupContext, measureCases, type Sampler } from './group.ts';
import { type DevicePort, diskReads, RequestDriver, type RequestShape } from './requests.ts';

/** Bytes of the file that is read. */
const FILE_SIZE = 256 * MiB;
const QUEUE_SIZE = 256;
const SAMPLES_PER_ROUND = 4;
const WARM_UP = 1000;
/** For a program's first answer, on a busy host. */
const WAIT_MS = 60_000;
const SOCKET_MS = 60_000;
const SETTLE_MS = 100;
/**
 * The CPUs of the programs and of the driver. Left alone, the scheduler sometimes puts both on one
 * CPU, which makes waking cheap and polling useless: results then differ by a half.
 */
const SERVER_CPU = '0';
const DRIVER_CPU = '1';

/** A device, and the requests that it is given. */
interface Setup {
  readonly device: 'blk' | 'fs';
  readonly depth: number;
  /** Sets the device up. */
  readonly begin: (port: DevicePort) => RequestShape;
  /** What the program gets of the driver's memory. Default all. */
  readonly share?: ShareMode;
}

/** A program's command line. @param socket where it listens */
type Command = (socket: string) => readonly string[];

/** A program that serves, and the driver in front of it. */
class Server implements Sampler {
  readonly #resources: AsyncCleanupStack;
  readonly #epoll = new Epoll(1);
  readonly #driver: RequestDriver;
  readonly #rate: number;

  static async open(commandOf: Command, setup: Setup): Promise<Server> {
    await using opened = new AsyncCleanupStack();
    // Not every program replaces the socket of the one before.
    const socket = join(opened.use(new TemporaryFolder('nodevmm-bench-')).path, 'socket');
    const child = opened.use(new Child(['taskset', '-c', SERVER_CPU, ...commandOf(socket)]));
    await child.listens(socket, SOCKET_MS);
    const { share } = setup;
    const address = { socket, server: false, timeoutMs: WAIT_MS, share };
    const device = await VhostUserDevice.open('bench0', address, async (session) =>
      setup.device === 'blk'
        ? await blkKind('bench0', session, 1, QUEUE_SIZE)
        : fsKind('bench', 1, QUEUE_SIZE),
    );
    const rig = opened.use(new VhostUserRig(device));
    await rig.start(featureSet(VIRTIO_F_VERSION_1), QUEUE_SIZE);
    // The frontend's last messages are sent from the event loop, to which the driver does not return.
    await delay(SETTLE_MS);
    return new Server(rig, setup, opened.move());
  }

  private constructor(
    rig: VhostUserRig,
    { device, depth, begin }: Setup,
    resources: AsyncCleanupStack,
  ) {
    this.#resources = resources;
    const queue = rig.queues[device === 'blk' ? 0 : 1];
    if (queue === undefined) throw new PeerError('E_BENCH', 'the device has no request queue');
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
          throw new PeerError('E_BENCH', `no request was completed in ${WAIT_MS / 1000} s`);
        }
      },
    };
    this.#driver = new RequestDriver(port, depth, begin(port));
    this.#driver.run(WARM_UP);
    this.#rate = this.#driver.rate(WARM_UP);
  }

  /** Requests per second. */
  sample(seconds: number): number {
    const requests = (this.#rate * seconds) / (2 * SAMPLES_PER_ROUND);
    return this.#driver.rate(Math.max(1, Math.round(requests)));
  }

  async close(): Promise<void> {
    this.#epoll.close();
    await this.#resources.disposeAsync();
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

async function measureServers(
  group: string,
  cases: readonly Case[],
  context: GroupContext,
): Promise<void> {
  using _pin = pinned();
  await measureCases(group, cases, context, SAMPLES_PER_ROUND);
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
      const setup: Setup = { device: 'blk', depth, begin: () => diskReads(FILE_SIZE) };
      const nodevmm: Command = (socket) => [...SERVE, 'blk', disk, '--socket', socket];
      const daemon: Command = (socket) => [
        ...['qemu-storage-daemon', '--object', 'iothread,id=thread'],
        ...['--blockdev', `${node},cache.direct=${direct ? 'on' : 'off'}`],
        ...['--export', `${exported},addr.path=${socket}`],
      ];
      return {
        measure: rate(`4 KiB reads, ${direct ? 'O_DIRECT' : 'page cache'}`, depth),
        peer: 'qemu-storage-daemon',
        rows: {
          nodevmm: () => Server.open(nodevmm, setup),
          'qemu-storage-daemon': () => Server.open(daemon, setup),
        },
      };
    }),
  );
}

/** What copies cost: `nodevmm serve` with all of the driver's memory, and with copies. */
function shareCases(file: string): Case[] {
  const nodevmm: Command = (socket) => [
    ...[...SERVE, 'blk', `${file},engine=io_uring`],
    ...['--socket', socket],
  ];
  return [4096, 128 * 1024].flatMap((bytes) =>
    [32, 1].map((depth): Case => {
      const row = (share: ShareMode) => () =>
        Server.open(nodevmm, {
          device: 'blk',
          depth,
          begin: () => diskReads(FILE_SIZE, bytes),
          share,
        });
      return {
        measure: rate(`share, ${bytes / 1024} KiB reads, page cache`, depth),
        peer: 'share=all',
        rows: { 'share=shadow': row('shadow'), 'share=all': row('all') },
      };
    }),
  );
}

export const vhostUserBlkGroup: Group = {
  name: 'vhost-user-blk',
  summary: 'disk reads over vhost-user, beside qemu-storage-daemon (docs/vhost-user.md)',
  named: true,
  async run(context) {
    if (findProgram('qemu-storage-daemon') === undefined) {
      throw new UsageError(
        'E_BENCH',
        'no qemu-storage-daemon',
        'apt-get install qemu-system-common',
      );
    }
    using folder = new TemporaryFolder('nodevmm-bench-');
    const file = join(folder.path, 'disk');
    writeFileSync(file, Buffer.alloc(FILE_SIZE, 0x5a));
    await measureServers('vhost-user-blk', [...diskCases(file), ...shareCases(file)], context);
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
  const nodevmm: Command = (socket) => [...SERVE, 'fs', shared, '--socket', socket];
  const daemon: Command = (socket) => [
    ...[virtiofsd, `--socket-path=${socket}`],
    ...['-o', `source=${shared},cache=auto,sandbox=chroot`],
  ];
  const one = (name: string, depth: number, begin: Setup['begin']): Case => {
    const setup: Setup = { device: 'fs', depth, begin };
    return {
      measure: rate(name, depth),
      peer: 'virtiofsd',
      rows: {
        nodevmm: () => Server.open(nodevmm, setup),
        virtiofsd: () => Server.open(daemon, setup),
      },
    };
  };
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
  named: true,
  async run(context) {
    const virtiofsd = findProgram('virtiofsd');
    if (virtiofsd === undefined || process.getuid?.() !== 0) {
      throw new UsageError('E_BENCH', 'needs virtiofsd and root', 'apt-get install virtiofsd');
    }
    using folder = new TemporaryFolder('nodevmm-bench-');
    const shared = join(folder.path, 'shared');
    mkdirSync(shared);
    writeFileSync(join(shared, 'file'), Buffer.alloc(FILE_SIZE, 0x5a));
    await measureServers('vhost-user-fs', folderCases(shared, virtiofsd), context);
  },
};
