/** Runs groups: on this host, or in the lab where its KVM cannot run their guests. */
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { buildGuest } from '../src/guest/guests.ts';
import { messageOf, UsageError } from '../src/host/errors.ts';
import { packageManifest } from '../src/host/package-folder.ts';
import { probeKvm } from '../src/kvm/probe.ts';
import type { Group, GroupContext } from './groups/group.ts';
import { describeHost } from './harness/host.ts';
import type { Result } from './harness/measure.ts';
import { BenchProgress } from './harness/progress.ts';
import {
  lossOf,
  type Omission,
  poolReports,
  type Report,
  reportOf,
  type Site,
} from './harness/report.ts';
import type { Progress } from './harness/rounds.ts';
import { bootBenchLab, encodeEvent, measureInLab, type StreamEvent } from './in-lab.ts';
import { type BenchOptions, isNamed } from './options.ts';
import { vdpaParents } from './peers/vdpa-parents.ts';
import { asked, select } from './subjects/subject.ts';

/** Gets results as they come. */
interface Sink extends Pick<GroupContext, 'progress' | 'report'> {
  readonly omit: (omission: Omission) => void;
}

async function runGroup(group: Group, options: BenchOptions, sink: Sink): Promise<void> {
  const { rounds, seconds, quick, folder = tmpdir(), measures, measured } = options;
  const { vfioNets, vfioDisks } = options;
  const { progress, report } = sink;
  const omit = (what: string, why: string): void => sink.omit({ group: group.name, what, why });
  await group.run({
    ...{ rounds, seconds, quick, folder, vfioNets, vfioDisks, progress, report, omit },
    skips: (measure) => measured.includes(measure) || !isNamed(measure, measures),
    select: (all) => select(all, options, omit),
    image: (name, kernel) =>
      buildGuest(name, {
        ...(kernel === undefined ? {} : { kernel }),
        onProgress: (step) => progress(step, 0),
      }),
  });
}

/** Reports results to the process outside the lab. */
export async function stream(groups: readonly Group[], options: BenchOptions): Promise<void> {
  const send = (event: StreamEvent): void => void process.stdout.write(encodeEvent(event));
  send({ kind: 'host', host: describeHost() });
  for (const group of groups) {
    await runGroup(group, options, {
      progress: (text, fraction) =>
        send({ kind: 'progress', text, ...(fraction === undefined ? {} : { fraction }) }),
      report: (results) => send({ kind: 'results', results }),
      omit: (omission) => send({ kind: 'omission', omission }),
    });
  }
}

/**
 * Measures as often as requested.
 * @param save called after each run with what there is: the rest may be interrupted
 */
export async function measure(
  groups: readonly Group[],
  options: BenchOptions,
  save: (report: Report) => void,
): Promise<Report> {
  const { repeat } = options;
  using progress = new BenchProgress(groups.length * repeat);
  const reports: [Report, ...Report[]] = [await measureOnce(groups, options, progress)];
  for (;;) {
    const pooled = poolReports(reports);
    save(pooled);
    if (reports.length === repeat) return pooled;
    progress.tell(`run ${reports.length + 1} of ${repeat}`);
    reports.push(await measureOnce(groups, options, progress));
  }
}

async function measureOnce(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<Report> {
  const why = whyLab(groups);
  const hasKvm = existsSync('/dev/kvm');
  const inLab =
    why === undefined ? [] : groups.filter(({ image }) => image !== undefined || !hasKvm);
  if (why !== undefined && !options.lab) {
    throw new UsageError('E_KVM', why, 'leave out --no-lab to measure in the lab');
  }
  const labHost = describeHost();
  const here = groups.filter((group) => !inLab.includes(group));
  const sites: Site[] = [];
  if (here.length > 0) sites.push(await measureHere(here, options, progress));
  if (why !== undefined) {
    progress.tell(`${why}; measuring in the lab, an emulated KVM host: compare ratios only`);
    await prepareImages(inLab, options, progress);
  }
  const labs: Site[] = [];
  for (const { name, subjects = [] } of inLab) {
    const tell = (text: string, fraction?: number): void => progress.tell(text, fraction);
    const passed = asked(subjects, options).map((row) => row.passes);
    const parents = passed.includes('virtio') ? await makeParents(tell) : [];
    const passes = passed.some((card) => card !== undefined);
    const boot = (report: Progress) => bootBenchLab(report, passes, parents);
    labs.push(await measureInLab(name, { options, labHost, boot, progress: tell }));
    progress.next();
  }
  const [first] = labs;
  if (first !== undefined) {
    const results = labs.flatMap((lab) => lab.results);
    const omissions = labs.flatMap((lab) => lab.omissions);
    sites.push({ ...first, results, omissions });
  }
  return reportOf(packageManifest().version, options, sites);
}

/** The driver vp_vdpa for the lab, as Debian's kernels have none. @returns nothing when it cannot be made: a row is left out */
async function makeParents(tell: (text: string) => void): Promise<string[]> {
  try {
    const { kernelVersion } = await buildGuest('lab');
    tell('vp_vdpa: downloading and compiling');
    return (await vdpaParents(kernelVersion)).filter((path) => path.endsWith('/vp_vdpa.ko'));
  } catch (error) {
    tell(`no vp_vdpa: ${messageOf(error)}`);
    return [];
  }
}

/** Why guests cannot be measured here; undefined when they can. */
function whyLab(groups: readonly Group[]): string | undefined {
  if (!groups.some(({ image }) => image !== undefined)) return undefined;
  const { usable, detail } = probeKvm();
  return usable ? undefined : detail;
}

async function measureHere(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<Site> {
  const host = describeHost();
  const results: Result[] = [];
  const omissions: Omission[] = [];
  for (const group of groups) {
    try {
      await runGroup(group, options, {
        progress: (text, fraction) => progress.tell(text, fraction),
        report: (more) => void results.push(...more),
        omit: (omission) => void omissions.push(omission),
      });
    } catch (error) {
      // What was measured before is worth keeping.
      omissions.push(lossOf(group.name, results, error));
    }
    progress.next();
  }
  return { host, results, omissions };
}

/** Makes the images of groups, since the lab has no network. */
async function prepareImages(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<void> {
  for (const { name, image, subjects = [] } of groups) {
    if (image === undefined) continue;
    const rows = select(subjects, options, () => {});
    for (const kernel of new Set([undefined, ...rows.map((row) => row.kernel)])) {
      const onProgress = (step: string): void => progress.tell(step, 0);
      try {
        await buildGuest(image, { onProgress, ...(kernel === undefined ? {} : { kernel }) });
      } catch (error) {
        // The rows that need this kernel will report why they have none.
        if (kernel === undefined) throw error;
        progress.tell(`${name}: no guest with kernel ${kernel}: ${String(error)}`);
      }
    }
  }
}
