/** Random reads of 4 KiB from a virtio disk, many at a time and one at a time. */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { BLK_SUBJECTS } from '../subjects/all.ts';
import { type DiskSpec, type RunningGuest, run } from '../subjects/subject.ts';
import { measureGuests, type Step } from './fleet.ts';
import type { Group } from './group.ts';

const MEMORY_MIB = 512;
const DISK_MIB = 256;
const DEPTHS = [32, 1] as const;
/** All tmpfs-backed disks are here. */
const MEMORY_FOLDER = '/dev/shm';

/** The parts of fio's JSON that are used. */
interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly read: { readonly iops: number } }[];
}

/** Reads per second. @param disk e.g. vda */
async function fio(
  guest: RunningGuest,
  disk: string,
  depth: number,
  seconds: number,
): Promise<number> {
  const argv = [
    ...['fio', '--name=randread', `--filename=/dev/${disk}`, '--readonly', '--rw=randread'],
    ...['--bs=4k', '--direct=1', '--ioengine=libaio', `--iodepth=${depth}`],
    ...['--time_based', `--runtime=${seconds}`, '--output-format=json'],
  ];
  const text = await run(guest, argv);
  // fio may print something before its report.
  const [job] = (JSON.parse(text.slice(text.indexOf('{'))) as FioReport).jobs;
  if (job === undefined || job.error !== 0) throw new Error(`fio: error ${job?.error}`);
  return job.read.iops;
}

/** Makes a file for a disk in a folder. */
function makeDisk(folder: string): DiskSpec {
  const path = join(folder, 'disk');
  const file = openSync(path, 'w');
  // Content that is not zero, so that no lower layer may treat it as a hole.
  const block = randomBytes(MiB);
  for (let i = 0; i < DISK_MIB; i++) writeSync(file, block);
  fsyncSync(file);
  closeSync(file);
  return { path, direct: takesDirect(path) };
}

/** tmpfs supports O_DIRECT since Linux 6.6. */
function takesDirect(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}

function stepOf(
  [label, { direct }]: readonly [string, DiskSpec],
  disk: string,
  depth: number,
  seconds: number,
): Step {
  const where = `${label}${direct ? ', O_DIRECT' : ''}`;
  const name = `4 KiB random reads, depth ${depth}, ${where}`;
  return {
    measures: [{ name, unit: 'IOPS', better: 'higher' }],
    take: async (guest) => ({ [name]: await fio(guest, disk, depth, seconds) }),
  };
}

export const blkGroup: Group = {
  name: 'blk',
  summary: '4 KiB random reads at depths 32 and 1, from tmpfs and from a file system',
  image: 'tools',
  subjects: BLK_SUBJECTS,
  async run(context) {
    context.progress('blk: writing disks', 0);
    using memory = new TemporaryFolder('nodevmm-bench-', MEMORY_FOLDER);
    using folder = new TemporaryFolder('nodevmm-bench-', context.folder);
    const disks = [
      ['tmpfs', makeDisk(memory.path)],
      ['file system', makeDisk(folder.path)],
    ] as const;
    const names = ['vda', 'vdb'] as const;
    const steps = disks
      .flatMap((disk, i) =>
        DEPTHS.map((depth) => stepOf(disk, names[i] ?? '', depth, context.seconds)),
      )
      .filter(({ measures: [{ name }] }) => !context.skips(name));
    const spec = { memoryMiB: MEMORY_MIB, disks: disks.map(([, disk]) => disk) };
    const subjects = context.select(BLK_SUBJECTS);
    await measureGuests(blkGroup, subjects, () => spec, steps, context);
  },
};
