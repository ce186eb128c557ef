/**
 * Random 4 KiB reads through vhost-user: the same driver in front of `nodevmm serve blk` and of
 * qemu-storage-daemon, on the same file, io_uring on both, in turns.
 *
 *     nodevmm bench vhost-user-blk
 */
import path from 'node:path';
import { blkKind } from '../src/vhost-user/frontend/blk-kind.ts';
import { BLOCK, LeanBlkDriver } from './lean-blk-driver.ts';
import {
  benchInFolder,
  FILE_SIZE,
  makeFile,
  measureServers,
  ResultTable,
  type Serving,
  socketOf,
} from './served-requests.ts';
import { NODEVMM } from './subjects/nodevmm-program.ts';

const QUEUE_SIZE = 128;
const WARM_UP = 1000;

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

function serving(server: Server, file: string, direct: boolean, folder: string): Serving {
  const socket = socketOf(folder, server.name);
  return {
    argv: server.argv(file, direct, socket),
    socket,
    kindOf: (session) => blkKind('bench0', session, 1, QUEUE_SIZE),
    queue: 0,
    queueSize: QUEUE_SIZE,
  };
}

async function compare(
  table: ResultTable,
  file: string,
  direct: boolean,
  depth: number,
  folder: string,
): Promise<void> {
  const disk = { blocks: FILE_SIZE / BLOCK, writes: false };
  const samples = await measureServers(
    SERVERS.map((server) => serving(server, file, direct, folder)),
    (server) => new LeanBlkDriver({ ...server.options(depth), ...disk }),
    depth,
    WARM_UP,
  );
  table.row([direct ? 'O_DIRECT' : 'page cache', String(depth)], samples);
}

await benchInFolder(async (folder) => {
  const file = path.join(folder, 'disk');
  makeFile(file);
  const servers = SERVERS.map(({ name }) => `${name}, kIOPS`.padEnd(28));
  const table = new ResultTable(['file', 'depth', ...servers, 'ratio'], 10);
  for (const direct of [false, true]) {
    for (const depth of [32, 1]) await compare(table, file, direct, depth, folder);
  }
});
