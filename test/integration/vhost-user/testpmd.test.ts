/**
 * DPDK's virtio driver in front of `nodevmm serve net`: its guest physical addresses are virtual
 * ones of its process. Where DPDK (package dpdk-dev) is installed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { findProgram } from '../../../src/guest/programs.ts';
import { BUNDLE, programPath, untilListening } from '../../support/rigs/host.ts';

const TESTPMD = 'dpdk-testpmd';
const LINE_BUFFERED = 'stdbuf';
const skip = findProgram(TESTPMD) === undefined ? `${TESTPMD} is not installed` : false;
/** Several rings full. */
const ENOUGH = 5000;

t.setTimeout(120_000);

async function end(child: ChildProcess): Promise<void> {
  const closed = child.exitCode ?? child.signalCode ?? once(child, 'close');
  child.kill('SIGINT');
  await closed;
}

/** What testpmd has counted in this direction so far, by its last word on it. */
function counted(output: string, direction: 'RX' | 'TX'): number {
  const found = [...output.matchAll(new RegExp(`${direction}-packets: (\\d+)`, 'g'))].at(-1);
  return Number(found?.[1] ?? 0);
}

for (const [network, mode, direction] of [
  ['sink', 'txonly', 'TX'],
  ['source', 'rxonly', 'RX'],
  ['echo', 'flowgen', 'RX'],
] as const) {
  for (const packed of [0, 1]) {
    t.test(`${network}, ${packed ? 'packed' : 'split'} rings`, { skip }, async (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'testpmd-'));
      const socket = join(folder, 'socket');
      const argv = [BUNDLE, 'serve', 'net', `backend=${network}`, '--socket', socket];
      const back = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
      let messages = '';
      back.stderr.on('data', (chunk: Buffer) => {
        messages += chunk;
      });
      await untilListening(socket, back);
      const vdev = `net_virtio_user0,path=${socket},queue_size=256,packed_vq=${packed}`;
      const front = spawn(
        programPath(LINE_BUFFERED),
        [
          ...['-oL', TESTPMD, '--lcores=0,1', '--no-huge', '-m', '128', '--no-pci'],
          ...[`--file-prefix=nodevmm-${process.pid}`, `--vdev=${vdev}`, '--', '--auto-start'],
          ...[`--forward-mode=${mode}`, '--no-mlockall', '--stats-period=1'],
          ...['--total-num-mbufs=4096', '--txd=256', '--rxd=256'],
        ],
        { stdio: ['ignore', 'pipe', 'pipe'] },
      );
      let output = '';
      for (const stream of [front.stdout, front.stderr]) {
        stream.on('data', (chunk: Buffer) => {
          output += chunk;
        });
      }
      while (counted(output, direction) < ENOUGH && front.exitCode === null) await delay(50);
      t.ok(counted(output, direction) >= ENOUGH, 'packets went through');
      await end(front);
      t.match(messages, /^nodevmm: net0: listening on \S+\n$/, 'no complaints');
      await end(back);
      rmSync(folder, { recursive: true });
    });
  }
}
