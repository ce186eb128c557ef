/** Runs groups in the lab: each in its own lab, and again in another one when that dies. */
import { once } from 'node:events';
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defer, type GuestProcess } from '../src/agent/command.ts';
import { PeerError } from '../src/host/errors.ts';
import { TemporaryFolder } from '../src/host/temporary-folder.ts';
import { Lab } from '../src/lab/lab.ts';
import type { Host } from './harness/host.ts';
import type { Result } from './harness/measure.ts';
import { lossOf, type Omission, type Site } from './harness/report.ts';
import type { Progress } from './harness/rounds.ts';
import { EventReader, type StreamEvent } from './harness/stream.ts';
import { argumentsOf, type BenchOptions } from './options.ts';

const PROGRAM = fileURLToPath(new URL('./run.js', import.meta.url));
const DISK_SIZE = 2 ** 30;
const DISK_FOLDER = '/mnt/bench';
const MOUNT = `set -e
/run/nodevmm/busybox modprobe virtio_blk
mkfs.ext4 -q -F /dev/vda
mkdir -p ${DISK_FOLDER}
mount -t ext4 /dev/vda ${DISK_FOLDER}`;
/** How often a group is measured at most: once, and twice more when the lab died. */
const ATTEMPTS = 3;
const LOST: readonly string[] = ['E_LAB_GONE', 'E_AGENT_GONE', 'E_LAB_SILENT'];
/** The longest silence of a living lab: it gives up on a guest that never comes up after 5 minutes. */
const PATIENCE_MS = 330_000;

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
  const results: Result[] = [];
  const omissions: Omission[] = [];
  let host: Host | undefined;
  const take = (event: StreamEvent): void => {
    if (event.kind === 'host') host ??= event.host;
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
  // Without one, no lab ever got to measuring.
  return {
    host: host ?? { ...run.labHost, emulated: true },
    labHost: run.labHost,
    results,
    omissions,
  };
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
  const reader = new EventReader(take);
  using silence = new Silence(patienceMs);
  command.stdout.setEncoding('utf8').on('data', (text: string) => {
    silence.isBroken();
    reader.push(text);
  });
  let said = '';
  command.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-2000);
  });
  const told = once(command.stdout, 'end');
  const ended = command.exit.finally(() => told);
  // A silent lab is closed, and its command ends with it.
  ended.catch(() => {});
  const { exitCode } = await Promise.race([ended, silence.lasts]);
  if (exitCode !== 0) {
    throw new PeerError(
      'E_BENCH',
      `the benchmark in the lab ended with status ${exitCode}: ${said.trim()}`,
    );
  }
}

/** Watches for silence. */
class Silence implements Disposable {
  readonly #late = defer<never>();
  readonly #timer: NodeJS.Timeout;

  constructor(patienceMs: number) {
    const why = `the lab said nothing for ${patienceMs / 1000} s`;
    const end = (): void => this.#late.reject(new PeerError('E_LAB_SILENT', why));
    this.#timer = setTimeout(end, patienceMs);
  }

  /** Rejects when nothing has happened for this long. */
  get lasts(): Promise<never> {
    return this.#late.promise;
  }

  /** Something has happened. */
  isBroken(): void {
    this.#timer.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Boots a lab with a disk that has a real file system. */
export async function bootBenchLab(progress: Progress): Promise<BenchLab> {
  const folder = new TemporaryFolder('nodevmm-bench-');
  try {
    const disk = join(folder.path, 'disk');
    const file = openSync(disk, 'w');
    ftruncateSync(file, DISK_SIZE);
    closeSync(file);
    const lab = await Lab.boot({
      qemuArgs: [
        ...['-object', 'iothread,id=bench'],
        ...['-drive', `if=none,id=bench,file=${disk},format=raw,cache=writeback,aio=threads`],
        ...['-device', 'virtio-blk-pci,drive=bench,iothread=bench'],
      ],
      onProgress: (step) => progress(step, 0),
    });
    const end = async (): Promise<void> => {
      await lab.close();
      folder.close();
    };
    try {
      const mounted = await lab.exec(['sh', '-c', MOUNT]);
      if (mounted.exitCode !== 0) {
        const why = mounted.stderr.toString().trim();
        throw new PeerError('E_BENCH', `no file system in the lab: ${why}`);
      }
    } catch (error) {
      await end();
      throw error;
    }
    return {
      start: (args) => lab.spawn([process.execPath, PROGRAM, ...args]),
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    folder.close();
    throw error;
  }
}
