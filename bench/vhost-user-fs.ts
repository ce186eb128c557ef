/**
 * Requests of FUSE through vhost-user: the same driver in front of `nodevmm serve fs` and of
 * virtiofsd, on the same folder, in turns.
 *
 *     nodevmm bench vhost-user-fs
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import * as fuse from '../src/abi/fuse.ts';
import { findProgram } from '../src/guest/find-program.ts';
import { UsageError } from '../src/host/errors.ts';
import type { DriverQueue } from '../src/testing/driver-queue.ts';
import { fsKind } from '../src/vhost-user/frontend/fs-kind.ts';
import { LeanFuseDriver, type LeanFuseRequest } from './lean-fuse-driver.ts';
import {
  benchInFolder,
  FILE_SIZE,
  makeFile,
  measureServers,
  type RequestServer,
  ResultTable,
  type Serving,
  socketOf,
} from './served-requests.ts';
import { NODEVMM } from './subjects/nodevmm-program.ts';

const QUEUE_SIZE = 256;
/** Requests before the first sample. */
const WARM_UP = 20_000;
const REQUEST_QUEUE = 1;

interface Server {
  readonly name: string;
  argv(folder: string, socket: string): string[];
}

/** Packages have it beside their own programs. */
const VIRTIOFSD = findProgram('virtiofsd');

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

function serving(server: Server, shared: string, folder: string): Serving {
  const socket = socketOf(folder, server.name);
  return {
    argv: server.argv(shared, socket),
    socket,
    kindOf: async () => fsKind('bench', 1, QUEUE_SIZE),
    queue: REQUEST_QUEUE,
    queueSize: QUEUE_SIZE,
  };
}

/** Mounts, opens the file, and gets ready for requests of one kind. */
function prepare(server: RequestServer, { bytes, depth, random }: Case): LeanFuseDriver {
  const drive = (request: LeanFuseRequest, most: number): LeanFuseDriver =>
    new LeanFuseDriver(server.options(most), request, queueTurn(server.queue));
  const words = (...values: number[]): Uint8Array =>
    new Uint8Array(Uint32Array.from(values).buffer);
  const mount = words(7, 31, 2 ** 17, 2 ** 22);
  const init = { opcode: fuse.FUSE_INIT, nodeid: 0n, body: mount, room: fuse.fuse_init_out.size };
  drive(init, 1).run(1);
  const body = Buffer.from('file\0');
  const name = { opcode: fuse.FUSE_LOOKUP, nodeid: 1n, body, room: fuse.fuse_entry_out.size };
  const lookup = drive(name, bytes === 0 ? depth : 1);
  lookup.run(depth);
  if (bytes === 0) return lookup;
  const nodeid = lookup.answer.getBigUint64(0, true);
  const room = fuse.fuse_open_out.size;
  const open = drive({ opcode: fuse.FUSE_OPEN, nodeid, body: words(0, 0), room }, 1);
  open.run(1);
  const args = new Uint8Array(fuse.fuse_read_in.size);
  const view = new DataView(args.buffer);
  view.setBigUint64(0, open.answer.getBigUint64(0, true), true);
  view.setUint32(fuse.fuse_read_in.size_.offset, bytes, true);
  const file = { fileSize: FILE_SIZE, random };
  const read = drive({ opcode: fuse.FUSE_READ, nodeid, body: args, room: bytes, ...file }, depth);
  read.run(depth);
  return read;
}

/** Where the next driver of a queue goes on. */
const queueTurn = (queue: DriverQueue): number => queue.driverArea.getUint16(2, true);

async function compare(
  table: ResultTable,
  wanted: Case,
  shared: string,
  folder: string,
): Promise<void> {
  const samples = await measureServers(
    SERVERS.map((server) => serving(server, shared, folder)),
    (server) => prepare(server, wanted),
    wanted.depth,
    WARM_UP,
  );
  table.row([wanted.name, String(wanted.depth)], samples);
}

await benchInFolder(async (folder) => {
  if (VIRTIOFSD === undefined || process.getuid?.() !== 0) {
    throw new UsageError('E_BENCH', 'virtiofsd is wanted, and root for it; install virtiofsd');
  }
  const shared = path.join(folder, 'shared');
  mkdirSync(shared);
  makeFile(path.join(shared, 'file'));
  const names = SERVERS.map(({ name }) => `${name}, thousand/s`.padEnd(28));
  const table = new ResultTable(['request'.padEnd(24), 'depth', ...names, 'ratio'], 6);
  for (const wanted of CASES) await compare(table, wanted, shared, folder);
});
