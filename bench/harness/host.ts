/** Describes the host that results were taken on. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, loadavg, release, totalmem } from 'node:os';
import { findProgram } from '../../src/guest/programs.ts';

/** A host. */
export interface Host {
  readonly cpu: string;
  readonly cpus: number;
  /** True where the processor itself is emulated: only ratios are meaningful there. */
  readonly emulated: boolean;
  readonly memoryMiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  /** Processes ready to run, averaged over a minute, before the first measurement. */
  readonly load: number;
}

/** The host that this process runs on. */
export function describeHost(): Host {
  const cpu = /^model name\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1];
  return {
    cpu: cpu ?? 'unknown',
    cpus: availableParallelism(),
    emulated: isInLab(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
    qemu: qemuVersion(),
    load: loadavg()[0] ?? 0,
  };
}

/** True in the lab, whose processor is emulated. */
export const isInLab = (): boolean => process.env.NODEVMM_IN_LAB === '1';

function qemuVersion(): string {
  const qemu = findProgram('qemu-system-x86_64');
  if (qemu === undefined) return 'none';
  const text = execFileSync(qemu, ['--version'], { encoding: 'utf8' });
  return /version (\S+)/.exec(text)?.[1] ?? 'unknown';
}

/** The note in every report with results from the lab. */
export const EMULATED_NOTE =
  'Measured on an emulated CPU (the lab): ratios mean something, absolute figures do not.';

/** In one line. */
export function hostLine(host: Host): string {
  const how = host.emulated ? 'EMULATED by QEMU, in the lab' : 'not emulated by nodevmm';
  const size = `${host.cpus} CPUs, ${(host.memoryMiB / 1024).toFixed(0)} GiB`;
  const load = `load ${host.load.toFixed(1)}`;
  return `${host.cpu} (${how}), ${size}, Linux ${host.kernel}, Node ${host.node}, QEMU ${host.qemu}, ${load}`;
}
