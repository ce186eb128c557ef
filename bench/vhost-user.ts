/**
 * Packets a second through vhost-user: DPDK's driver (testpmd with net_virtio_user) in front of
 * `nodevmm serve net`, and in front of DPDK's own back end (net_vhost), on the same two cores.
 *
 *     nodevmm bench vhost-user
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { columns } from '../src/cli/terminal/text-table.ts';
import { messageOf, UsageError } from '../src/host/errors.ts';
import { Child } from './subjects/child.ts';
import { NODEVMM } from './subjects/nodevmm-program.ts';

const ROUNDS = 3;
/** Numbers that a run is to give, about one a second: the driver's main thread has no CPU of its own. */
const NUMBERS = 5;
const RUN_MS = 20_000;
const TESTPMD = 'dpdk-testpmd';
/** Where the back end's thread runs, and the driver's. */
const BACK_END_CPU = 0;
const DRIVER_CPU = 1;

/** What the network behind the back end does, and what both ends of DPDK call it. */
const NETWORKS = [
  { network: 'sink', driver: 'txonly', peer: 'rxonly', counter: 'Tx-pps' },
  { network: 'source', driver: 'rxonly', peer: 'txonly', counter: 'Rx-pps' },
  { network: 'echo', driver: 'flowgen', peer: 'io', counter: 'Rx-pps' },
] as const;
type Network = (typeof NETWORKS)[number];

interface Case {
  readonly network: Network;
  readonly packed: boolean;
  /** Bytes of a frame. */
  readonly frame: number;
}

/** testpmd with one lcore that forwards, on a CPU of its own. */
function testpmd(name: string, cpu: number, vdev: string, mode: string, frame: number): string[] {
  const other = cpu === BACK_END_CPU ? DRIVER_CPU : BACK_END_CPU;
  return [
    ...['stdbuf', '-oL', TESTPMD, `--lcores=0@${other},1@${cpu}`, '--no-huge', '-m', '256'],
    ...['--no-pci', `--file-prefix=nodevmm-${name}`, `--vdev=${vdev}`, '--', '--auto-start'],
    ...[`--forward-mode=${mode}`, `--txpkts=${frame}`, '--no-mlockall', '--stats-period=1'],
    ...['--txd=1024', '--rxd=1024', '--total-num-mbufs=8192'],
  ];
}

function backEnd(peer: boolean, { network, frame, packed }: Case, socket: string): string[] {
  if (peer) {
    return testpmd('peer', BACK_END_CPU, `net_vhost0,iface=${socket}`, network.peer, frame);
  }
  const device = `backend=${network.network},frame=${frame},packed=${packed ? 'on' : 'off'}`;
  const program = [process.execPath, NODEVMM, 'serve', 'net', device, '--socket', socket, '--poll'];
  return ['taskset', '-c', String(BACK_END_CPU), ...program];
}

/** One run. @returns packets a second */
async function run(peer: boolean, what: Case, folder: string): Promise<number> {
  const socket = path.join(folder, `${peer ? 'dpdk' : 'nodevmm'}.sock`);
  rmSync(socket, { force: true });
  await using back = new Child(backEnd(peer, what, socket));
  await back.makes(socket, 20_000);
  const vdev = `net_virtio_user0,path=${socket},queue_size=1024,packed_vq=${what.packed ? 1 : 0}`;
  const { driver, counter } = what.network;
  let output = '';
  await using front = new Child(testpmd('driver', DRIVER_CPU, vdev, driver, what.frame));
  front.process.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString('latin1');
  });
  const numbers = (): number[] =>
    [...output.matchAll(new RegExp(`${counter}:\\s+(\\d+)`, 'g'))].map((found) => Number(found[1]));
  await front.during(
    'the driver',
    until(() => numbers().length >= NUMBERS, RUN_MS),
    2 * RUN_MS,
  );
  const rates = numbers();
  // The first number is from before the start, the second one from within it.
  const steady = rates.slice(2).sort((a, b) => a - b);
  return steady[Math.floor(steady.length / 2)] ?? 0;
}

/** Resolves when something is so, or the time is over. */
async function until(isSo: () => boolean, ms: number): Promise<void> {
  const end = Date.now() + ms;
  while (!isSo() && Date.now() < end) await delay(100);
}

const HEAD = ['network', 'bytes', 'format', 'nodevmm Mp/s', 'DPDK Mp/s', 'ratio', 'nodevmm Gbit/s'];

const line = (cells: readonly string[]): string =>
  `${columns(
    cells,
    HEAD.map((cell) => cell.length),
  ).join('\n')}\n`;

const best = (rates: readonly number[]): number => Math.max(...rates, 0);
const millions = (rate: number): string => (rate / 1e6).toFixed(2);

function casesOf(args: readonly string[]): Case[] {
  const quick = args.includes('--quick');
  return [64, 1500].flatMap((frame) =>
    NETWORKS.flatMap((network) =>
      [false, true]
        .filter((packed) => !packed || !quick)
        .map((packed): Case => ({ network, packed, frame })),
    ),
  );
}

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-bench-'));
try {
  if (!['/usr/bin', '/usr/local/bin'].some((bin) => existsSync(path.join(bin, TESTPMD)))) {
    throw new UsageError('E_DPDK', `${TESTPMD} is missing; install the packages dpdk and dpdk-dev`);
  }
  process.stdout.write(line(HEAD));
  for (const what of casesOf(process.argv)) {
    const { network, packed, frame } = what;
    const own: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      own.push(await run(false, what, folder));
      theirs.push(await run(true, what, folder));
    }
    const [mine, peer] = [best(own), best(theirs)];
    const name = [network.network, String(frame), packed ? 'packed' : 'split'];
    const ratio = peer === 0 ? '-' : `${Math.round((mine / peer) * 100)} %`;
    const gbit = ((mine * frame * 8) / 1e9).toFixed(1);
    process.stdout.write(line([...name, millions(mine), millions(peer), ratio, gbit]));
  }
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
