/** Runs groups in the lab, which gets a disk with a real file system of its own. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PeerError } from '../src/host/errors.ts';
import { Lab } from '../src/lab/lab.ts';
import { undoAtExit } from './harness/at-exit.ts';
import type { Report } from './harness/report.ts';
import type { BenchOptions } from './options.ts';

const PROGRAM = fileURLToPath(new URL('./run.js', import.meta.url));
const DISK_SIZE = 2 ** 30;
const MOUNT = `set -e
/run/nodevmm/busybox modprobe virtio_blk
mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt/bench
mount -t ext4 /dev/vda /mnt/bench`;

/**
 * Boots a lab for this alone and runs the named groups there.
 * @param progress gets what the run in the lab says
 * @throws PeerError when that fails
 */
export async function runInLab(
  names: readonly string[],
  { rounds, seconds, subjects }: BenchOptions,
  progress: (text: string) => void,
): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'nodevmm-bench-'));
  const removeFolder = undoAtExit(() => rmSync(folder, { recursive: true, force: true }));
  try {
    const disk = join(folder, 'disk');
    const file = openSync(disk, 'w');
    ftruncateSync(file, DISK_SIZE);
    closeSync(file);
    await using lab = await Lab.boot({
      qemuArgs: [
        ...['-object', 'iothread,id=bench'],
        ...['-drive', `if=none,id=bench,file=${disk},format=raw,cache=writeback,aio=threads`],
        ...['-device', 'virtio-blk-pci,drive=bench,iothread=bench'],
      ],
      onProgress: (step) => progress(step),
    });
    const mounted = await lab.exec(['sh', '-c', MOUNT]);
    if (mounted.exitCode !== 0) {
      throw new PeerError('E_BENCH', `no file system in the lab: ${mounted.stderr.toString()}`);
    }
    const command = lab.spawn([
      ...[process.execPath, PROGRAM, '--no-lab', '--json', '-', '--folder', '/mnt/bench'],
      ...['--rounds', String(rounds), '--seconds', String(seconds)],
      ...subjects.flatMap((subject) => ['--subjects', subject]),
      ...names,
    ]);
    let output = '';
    command.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    command.stderr.pipe(process.stderr, { end: false });
    const { exitCode } = await command.exit;
    if (exitCode !== 0) {
      throw new PeerError('E_BENCH', `the benchmark in the lab ended with status ${exitCode}`);
    }
    return JSON.parse(output) as Report;
  } finally {
    removeFolder();
  }
}
