/** Random reads of 4 KiB from a virtio disk, many at a time and one at a time. */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { BLK_SUBJECTS } from '../subjects/all.ts';
import {
  type DiskSpec,
  dealCards,
  type RunningGuest,
  run,
  type Subject,
} from '../subjects/subject.ts';
import { between, costMeasures, costSample, readProcesses } from './costs.ts';
import { measureGuests, type Step } from './fleet.ts';
import type { Group, GroupContext } from './group.ts';

const MEMORY_MIB = 512;
const DISK_MIB = 256;
const DEPTHS = [32, 1] as const;
/** All tmpfs-backed disks are here. */
const MEMORY_FOLDER = '/dev/shm';
const NO_CARD = 'no NVMe disk to pass to it; --vfio-disks ADDRESS';

/** The parts of fio's JSON that are used. */
interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: { readonly iops: number; readonly total_ios: number };
  }[];
}

/** Reads. @param disk e.g. vda */
async function fio(
  guest: RunningGuest,
  disk: string,
  depth: number,
  seconds: number,
): Promise<FioReport['jobs'][number]['read']> {
  const argv = [
    ...['fio', '--name=randread', `--filename=/dev/${disk}`, '--readonly', '--rw=randread'],
    ...['--bs=4k', '--direct=1', '--ioengine=libaio', `--iodepth=${depth}`],
    ...['--time_based', `--runtime=${seconds}`, '--output-format=json'],
  ];
  const text = await run(guest, argv);
  // fio may print something before its report.
  const [job] = (JSON.parse(text.slice(text.indexOf('{'))) as FioReport).jobs;
  if (job === undefined || job.error !== 0) throw new Error(`fio: error ${job?.error}`);
  return job.read;
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

/** What the disks of a measure are on, and which disk that is in the guest of a row. */
interface Medium {
  readonly label: string;
  readonly direct: boolean;
  /** E.g. vda; undefined in a guest without it. */
  diskOf(passed: boolean): string | undefined;
}

function stepOf(
  { label, direct, diskOf }: Medium,
  depth: number,
  isPassed: (index: number) => boolean,
  seconds: number,
): Step {
  const where = `${label}${direct ? ', O_DIRECT' : ''}`;
  const name = `4 KiB random reads, depth ${depth}, ${where}`;
  return {
    measures: [{ name, unit: 'IOPS', better: 'higher' }, ...costMeasures(name, 'request')],
    suits: (index) => diskOf(isPassed(index)) !== undefined,
    async take(guest, index) {
      const before = readProcesses(guest);
      const disk = diskOf(isPassed(index)) ?? '';
      const { iops, total_ios } = await fio(guest, disk, depth, seconds);
      const cost = between(before, readProcesses(guest));
      return { [name]: iops, ...costSample(name, 'request', cost, total_ios) };
    },
  };
}

/** Measures rows of a group. */
export async function measureBlk(
  group: Group,
  rows: readonly Subject[],
  context: GroupContext,
): Promise<void> {
  const isFile = (disk: string): boolean => disk.startsWith('/');
  const [ours, passed] = [
    context.vfioDisks.find(isFile),
    context.vfioDisks.filter((d) => !isFile(d)),
  ];
  const { subjects, cards } = dealCards(context.select(rows), passed, context, NO_CARD);
  context.progress(`${group.name}: writing disks`, 0);
  using memory = new TemporaryFolder('nodevmm-bench-', MEMORY_FOLDER);
  using folder = new TemporaryFolder('nodevmm-bench-', context.folder);
  const files = [makeDisk(memory.path), makeDisk(folder.path)] as const;
  const disks = [...files, ...(ours === undefined ? [] : [{ path: ours, direct: true }])];
  const media: readonly Medium[] = [
    { label: 'tmpfs', ...files[0], diskOf: (isCard) => (isCard ? undefined : 'vda') },
    { label: 'file system', ...files[1], diskOf: (isCard) => (isCard ? undefined : 'vdb') },
    ...(context.vfioDisks.length === 0
      ? []
      : [
          {
            label: 'NVMe',
            direct: true,
            diskOf: (isCard: boolean) =>
              isCard ? 'nvme0n1' : ours === undefined ? undefined : 'vdc',
          },
        ]),
  ];
  const cardOf = (index: number): string | undefined => {
    const subject = subjects[index];
    return subject && cards.get(subject);
  };
  const isPassed = (index: number): boolean => cardOf(index) !== undefined;
  const steps = media
    .flatMap((medium) => DEPTHS.map((depth) => stepOf(medium, depth, isPassed, context.seconds)))
    .filter(({ measures: [{ name }] }) => !context.skips(name));
  const specOf = (index: number) => {
    const vfio = cardOf(index);
    return { memoryMiB: MEMORY_MIB, ...(vfio === undefined ? { disks } : { vfio }) };
  };
  if (steps.length > 0) await measureGuests(group, subjects, specOf, steps, context);
}

export const blkGroup: Group = {
  name: 'blk',
  summary: '4 KiB random reads at depths 32 and 1, from tmpfs, a file system, NVMe; what they cost',
  image: 'tools',
  subjects: BLK_SUBJECTS,
  run: (context) => measureBlk(blkGroup, BLK_SUBJECTS, context),
};
