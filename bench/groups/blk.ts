/** Random reads of 4 KiB from a virtio disk, many at a time and one at a time. */
import type { Measure } from '../harness/measure.ts';
import { measureInRounds } from '../harness/rounds.ts';
import { BLK_SUBJECTS } from '../subjects/all.ts';
import { select } from '../subjects/selection.ts';
import { run } from '../subjects/subject.ts';
import { DiskFiles } from './disk-files.ts';
import {
  type Booted,
  Fleet,
  type Group,
  type GroupContext,
  guestOf,
  processesOf,
  spanOf,
} from './group.ts';

const MEMORY_MIB = 512;
const DISK_MIB = 256;
const DEPTHS = [32, 1] as const;

/** The parts of fio's JSON that are used. */
interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly read: { readonly iops: number } }[];
}

/** Reads per second. @param disk e.g. vda */
async function fio(member: Booted, disk: string, depth: number, seconds: number): Promise<number> {
  const argv = [
    ...['fio', '--name=randread', `--filename=/dev/${disk}`, '--readonly', '--rw=randread'],
    ...['--bs=4k', '--direct=1', '--ioengine=libaio', `--iodepth=${depth}`],
    ...['--time_based', `--runtime=${seconds}`, '--output-format=json'],
  ];
  const text = await run(guestOf(member), argv);
  // fio may print something before its report.
  const [job] = (JSON.parse(text.slice(text.indexOf('{'))) as FioReport).jobs;
  if (job === undefined || job.error !== 0) throw new Error(`fio: error ${job?.error}`);
  return job.read.iops;
}

export const blkGroup: Group = {
  name: 'blk',
  summary: '4 KiB random reads at depths 32 and 1, from tmpfs and from a file system',
  guests: true,
  images: () => [{ name: 'tools' }],
  async run(context: GroupContext): Promise<void> {
    context.progress('blk: writing disks', 0);
    using disks = new DiskFiles(context.folder, DISK_MIB);
    const subjects = select(BLK_SUBJECTS, context.wanted, context.omit);
    await using fleet = await Fleet.boot('blk', 'tools', subjects, context, () => ({
      memoryMiB: MEMORY_MIB,
      disks: disks.files,
    }));
    const steps = disks.files
      .flatMap(({ label, direct }, index) => {
        const device = `vd${String.fromCharCode('a'.charCodeAt(0) + index)}`;
        const where = `${label}${direct ? ', O_DIRECT' : ''}`;
        return DEPTHS.map((depth) => ({
          device,
          depth,
          name: `4 KiB random reads, depth ${depth}, ${where}`,
        }));
      })
      .filter(({ name }) => !context.skips(name));
    for (const [index, { device, depth, name }] of steps.entries()) {
      const measure: Measure = { name, unit: 'IOPS', better: 'higher' };
      const take = async (member: Booted) => ({
        [name]: await fio(member, device, depth, context.seconds),
      });
      const taking = {
        ...{
          group: 'blk',
          measures: [measure],
          contestants: fleet.members,
          take,
          processes: processesOf,
        },
        revive: fleet.revive,
        span: spanOf(index, steps.length),
      };
      context.report(await measureInRounds(taking, context));
    }
  },
};
