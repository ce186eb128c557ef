/** The memory of a VMM itself: resident pages outside guest RAM, guest idle. */
import { readFileSync } from 'node:fs';
import { sum } from 'simple-statistics';
import type { Measure } from '../harness/measure.ts';
import { RSS_SUBJECTS } from '../subjects/all.ts';
import { run } from '../subjects/subject.ts';
import { measureGuests, type Step } from './fleet.ts';
import type { Group } from './group.ts';

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
function mappingsBeyondRam(pid: number): Mapping[] {
  const all = mappings(pid);
  const ramKiB = MEMORY_MIB * 1024;
  const [ram] = all
    .filter(({ sizeKiB }) => sizeKiB >= ramKiB && sizeKiB <= ramKiB + SLACK_KIB)
    .toSorted((a, b) => b.rssKiB - a.rssKiB);
  if (ram === undefined) throw new Error('guest RAM is no single mapping');
  return all.filter((one) => one !== ram);
}

const STEP: Step = {
  measures: [RESIDENT, PRIVATE],
  async take(guest) {
    await run(guest, ['true']);
    const beyond = mappingsBeyondRam(guest.pid);
    return {
      [RESIDENT.name]: sum(beyond.map(({ rssKiB }) => rssKiB)) / 1024,
      [PRIVATE.name]: sum(beyond.map(({ privateKiB }) => privateKiB)) / 1024,
    };
  },
};

export const rssGroup: Group = {
  name: 'rss',
  summary: 'memory of the VMM beyond guest RAM',
  image: 'minimal',
  subjects: RSS_SUBJECTS,
  async run(context) {
    if (context.skips(RESIDENT.name)) return;
    const subjects = context.select(RSS_SUBJECTS);
    await measureGuests(rssGroup, subjects, () => ({ memoryMiB: MEMORY_MIB }), [STEP], context);
  },
};
