/** The memory of a VMM itself: resident pages outside guest RAM, guest idle. */
import { readFileSync } from 'node:fs';
import type { Measure } from '../harness/measure.ts';
import { measureInRounds } from '../harness/rounds.ts';
import { RSS_SUBJECTS } from '../subjects/all.ts';
import { select } from '../subjects/selection.ts';
import { run } from '../subjects/subject.ts';
import { type Booted, Fleet, type Group, type GroupContext, guestOf, spanOf } from './group.ts';

const MEMORY_MIB = 512;
const RESIDENT: Measure = { name: 'resident beyond guest RAM', unit: 'MiB', better: 'lower' };
const PRIVATE: Measure = {
  name: 'private memory beyond guest RAM',
  unit: 'MiB',
  better: 'lower',
  aspect: { of: RESIDENT.name, label: 'of it private' },
};

interface Mapping {
  readonly sizeKiB: number;
  readonly rssKiB: number;
  readonly privateKiB: number;
}

/** The mappings of a process, from proc_pid_smaps(5). */
function mappings(pid: number): Mapping[] {
  const parts = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return parts.map((part) => {
    const field = (name: string): number =>
      Number(new RegExp(`^${name}:\\s+([0-9]+) kB`, 'm').exec(part)?.[1] ?? 0);
    return {
      sizeKiB: field('Size'),
      rssKiB: field('Rss'),
      privateKiB: field('Private_Clean') + field('Private_Dirty'),
    };
  });
}

/** Allocators may merge guest RAM's mapping with a neighbor. */
const SLACK_KIB = 32 * 1024;

/** All mappings except guest RAM's, which is recognized by its size and its many resident pages. */
function beyondRam(pid: number): { resident: number; own: number } {
  const all = mappings(pid);
  const ramKiB = MEMORY_MIB * 1024;
  const [ram] = all
    .filter(({ sizeKiB }) => sizeKiB >= ramKiB && sizeKiB <= ramKiB + SLACK_KIB)
    .toSorted((a, b) => b.rssKiB - a.rssKiB);
  if (ram === undefined) throw new Error('guest RAM is no single mapping');
  const sum = (of: (one: Mapping) => number): number =>
    all.reduce((total, one) => total + (one === ram ? 0 : of(one)), 0) / 1024;
  return { resident: sum((one) => one.rssKiB), own: sum((one) => one.privateKiB) };
}

export const rssGroup: Group = {
  name: 'rss',
  summary: 'memory of the VMM beyond guest RAM',
  guests: true,
  images: () => [{ name: 'minimal' }],
  async run(context: GroupContext): Promise<void> {
    if (context.skips(RESIDENT.name)) return;
    const subjects = select(RSS_SUBJECTS, context.wanted, context.omit);
    await using fleet = await Fleet.boot('rss', 'minimal', subjects, context, () => ({
      memoryMiB: MEMORY_MIB,
    }));
    const take = async (member: Booted) => {
      await run(guestOf(member), ['true']);
      const { resident, own } = beyondRam(guestOf(member).pid);
      return { [RESIDENT.name]: resident, [PRIVATE.name]: own };
    };
    const measures = [RESIDENT, PRIVATE];
    const contestants = fleet.members;
    const { revive } = fleet;
    const taking = { group: 'rss', measures, contestants, take, revive, span: spanOf(0, 1) };
    context.report(await measureInRounds(taking, context));
  },
};
