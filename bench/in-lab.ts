/** Runs groups in the lab: each in its own lab, and again in another one when that dies. */
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { defer, type GuestProcess } from '../src/agent/command.ts';
import { PeerError } from '../src/host/errors.ts';
import { packageFolder } from '../src/host/package-folder.ts';
import { Lab, type LabOptions } from '../src/lab/lab.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import type { Host } from './harness/host.ts';
import type { Result } from './harness/measure.ts';
import { lossOf, type Omission, type Site } from './harness/report.ts';
import type { Progress } from './harness/rounds.ts';
import { argumentsOf, type BenchOptions } from './options.ts';

const PROGRAM = join(packageFolder, 'dist/bench/run.js');
const DISK_FOLDER = '/mnt/bench';
/** A real file system, on a disk of RAM: the lab's others are its host's. */
const MOUNT = `set -e
/run/nodevmm/busybox modprobe brd rd_nr=1 rd_size=1048576
/run/nodevmm/busybox modprobe -a vduse vhost_vdpa
mkfs.ext4 -q -F /dev/ram0
mkdir -p ${DISK_FOLDER}
mount -t ext4 /dev/ram0 ${DISK_FOLDER}`;
/** How often a group is measured at most: once, and twice more when the lab died. */
const ATTEMPTS = 3;
const LOST: readonly string[] = ['E_LAB_GONE', 'E_AGENT_GONE', 'E_LAB_SILENT'];
/** The longest silence of a living lab: it gives up on a guest that never comes up after 5 minutes. */
const PATIENCE_MS = 330_000;

/** What a run in the lab reports to the process outside: a JSON line each, so that they survive the lab. */
export type StreamEvent =
  | { readonly kind: 'host'; readonly host: Host }
  | { readonly kind: 'results'; readonly results: readonly Result[] }
  | { readonly kind: 'omission'; readonly omission: Omission }
  | { readonly kind: 'progress'; readonly text: string; readonly fraction?: number };

/** One line, with its end. NaN and infinities do not occur: samples are finite. */
export const encodeEvent = (event: StreamEvent): string => `${JSON.stringify(event)}\n`;

/** @returns undefined for a line that was lost with its sender */
function parseEvent(line: string): StreamEvent | undefined {
  try {
    return JSON.parse(line) as StreamEvent;
  } catch {
    return undefined;
  }
}

/** The parts of a lab that are used here. */
export interface BenchLab extends AsyncDisposable {
  /** Starts the program of bench/run.ts. */
  start(args: readonly string[]): GuestProcess;
}

/** The setup that a group was measured with. */
export interface LabRun {
  /** Boots a lab. */
  readonly boot: (progress: Progress) => Promise<BenchLab>;
  readonly progress: Progress;
  readonly options: BenchOptions;
  readonly labHost: Host;
  /** How long a lab may be silent before it counts as dead: its kernel can stop without a message. */
  readonly patienceMs?: number;
}

/**
 * Measures one group in the lab.
 * @returns the results, even when the lab died each time, or the program in it failed
 * @throws UsageError when this host cannot run a lab
 */
export async function measureInLab(group: string, run: LabRun): Promise<Site> {
  const { labHost } = run;
  const results: Result[] = [];
  const omissions: Omission[] = [];
  // Without one, no lab ever got to measuring.
  let host: Host = { ...labHost, emulated: true };
  const take = (event: StreamEvent): void => {
    if (event.kind === 'host') host = event.host;
    else if (event.kind === 'results') results.push(...event.results);
    else if (event.kind === 'progress') run.progress(event.text, event.fraction);
    else if (!omissions.some(({ what }) => what === event.omission.what)) {
      omissions.push(event.omission);
    }
  };
  for (let attempt = 1; ; attempt++) {
    try {
      await measureOnce(group, run, results, take);
      break;
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      if (attempt === ATTEMPTS || !LOST.includes(error.code)) {
        omissions.push(lossOf(group, results, error));
        break;
      }
      const [why] = error.message.split('\n');
      run.progress(`${group}: again in another lab, for what is missing: ${why}`);
    }
  }
  return { host, labHost, results, omissions };
}

async function measureOnce(
  group: string,
  { boot, progress, options, patienceMs = PATIENCE_MS }: LabRun,
  before: readonly Result[],
  take: (event: StreamEvent) => void,
): Promise<void> {
  progress(`${group}: booting the lab`, 0);
  await using lab = await boot(progress);
  const command = lab.start([
    ...['--no-lab', '--stream', '--folder', DISK_FOLDER],
    ...argumentsOf(options),
    ...before.flatMap(({ measure }) => ['--measured', measure.name]),
    group,
  ]);
  const silent = defer<never>();
  const timer = setTimeout(() => {
    const why = `the lab said nothing for ${patienceMs / 1000} s`;
    silent.reject(new PeerError('E_LAB_SILENT', why));
  }, patienceMs);
  const lines = createInterface({ input: command.stdout });
  lines.on('line', (line) => {
    timer.refresh();
    const event = parseEvent(line);
    if (event !== undefined) take(event);
  });
  let said = '';
  command.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-2000);
  });
  const read = once(lines, 'close');
  const ended = command.exit.finally(() => read);
  // A silent lab is closed, and its command ends with it.
  ended.catch(() => {});
  try {
    const { exitCode } = await Promise.race([ended, silent.promise]);
    if (exitCode === 0) return;
    const why = `the benchmark in the lab ended with status ${exitCode}: ${said.trim()}`;
    throw new PeerError('E_BENCH', why);
  } finally {
    clearTimeout(timer);
  }
}

/** Where the lab's cards are on its bus: network cards, each wired to one of the lab's own, and disks. */
const at = (slot: number): string => `0000:00:${slot.toString(16)}.0`;
const VIRTIO = 'virtio-net-pci,disable-legacy=on,iommu_platform=on,ats=on';
/** Two for VFIO, two for vp_vdpa, and two that are not virtio. */
const CARDS = [VIRTIO, VIRTIO, VIRTIO, VIRTIO, 'e1000e', 'e1000e'].map((device, index) => ({
  device,
  address: at(0x10 + index),
  end: at(0x10 + 6 + index),
  wire: `wire${index}`,
}));
const DISKS = [at(0x1c), at(0x1d)] as const;
const OWN_DISK = at(0x1e);
const slotOf = (address: string): string => address.slice(8, 10);

/** An IOMMU, and devices behind it. The disks hold zeroes. */
const PASSED: LabOptions = {
  machine: 'kernel-irqchip=split',
  kernelArgs: 'intel_iommu=on',
  qemuArgs: [
    ...['-device', 'intel-iommu,intremap=on,device-iotlb=on'],
    ...CARDS.flatMap(({ device, address, end, wire }, index) => [
      ...['-netdev', `hubport,id=${wire}a,hubid=${1 + index}`],
      ...['-device', `${device},netdev=${wire}a,addr=0x${slotOf(address)}`],
      ...['-netdev', `hubport,id=${wire}b,hubid=${1 + index}`],
      ...['-device', `${VIRTIO},netdev=${wire}b,addr=0x${slotOf(end)}`],
    ]),
    ...[...DISKS, OWN_DISK].flatMap((address, index) => [
      ...['-blockdev', `null-co,node-name=null${index},size=${256 * MiB},read-zeroes=on`],
      ...['-device', `nvme,drive=null${index},serial=null${index},addr=0x${slotOf(address)}`],
    ]),
  ],
};

/** Names the lab's ends of the wires, and prints the disk that stays. */
const WIRE = `set -e
/run/nodevmm/busybox modprobe -a vfio-pci vfio_iommu_type1 virtio_net
cd /sys/bus/pci/devices
${CARDS.map(({ end, wire }) => `ip link set dev "$(ls ${end}/virtio*/net)" name ${wire}`).join('\n')}
basename ${OWN_DISK}/nvme/nvme*/nvme*n1`;

/**
 * Boots a lab that has a folder on a real file system.
 * @param passes it also has an IOMMU, and devices to be passed to guests
 * @param modules of its kernel, by file, besides those that it has
 */
export async function bootBenchLab(
  progress: Progress,
  passes: boolean,
  modules: readonly string[] = [],
): Promise<BenchLab> {
  const lab = await Lab.boot({
    ...(passes ? PASSED : {}),
    onProgress: (step) => progress(step, 0),
  });
  try {
    await prepare(lab, MOUNT);
    for (const module of modules) await prepare(lab, `/run/nodevmm/busybox insmod '${module}'`);
    const cards = passes ? cardArguments(await prepare(lab, WIRE)) : [];
    return {
      start: (args) => lab.spawn([process.execPath, PROGRAM, ...cards, ...args]),
      [Symbol.asyncDispose]: () => lab.close(),
    };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** Runs a script in the lab. @returns what it printed */
async function prepare(lab: Lab, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await lab.exec(['sh', '-c', script]);
  if (exitCode === 0) return stdout.toString().trim();
  throw new PeerError('E_BENCH', `the lab is not ready: ${stderr.toString().trim()}`);
}

/** The options that name its devices. @param own the disk that it keeps */
function cardArguments(own: string): string[] {
  const nets = CARDS.map(({ address, wire }) => `${address}=${wire}`);
  return ['--vfio-nets', nets.join(','), '--vfio-disks', [...DISKS, `/dev/${own}`].join(',')];
}
