/** What network traffic costs its host: CPU time of the VMM's processes, and exits of its VM in KVM. */
import { readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { sum } from 'simple-statistics';
import type { Measure } from '../harness/measure.ts';
import type { Sample } from '../harness/rounds.ts';
import type { Processes } from '../subjects/subject.ts';

/** Of the processes that do the VMM's work; NaN is what this host does not show. */
export interface ProcessCounters {
  /** With the vCPU's time in the guest, and that of vhost's threads. */
  readonly cpuSeconds: number;
  /** Returns from KVM_RUN to user space. */
  readonly exits: number;
}

/** With what went through the tap meanwhile, both ways. */
export interface NetCounters extends ProcessCounters {
  readonly packets: number;
  readonly bytes: number;
}

/** What happened between two readings. */
export const between = (before: NetCounters, after: NetCounters): NetCounters => ({
  cpuSeconds: after.cpuSeconds - before.cpuSeconds,
  exits: after.exits - before.exits,
  packets: after.packets - before.packets,
  bytes: after.bytes - before.bytes,
});

/** KVM's counter of them: it saves the guest's FPU state at each. */
const EXITS = 'fpu_reload';
const KVM_STATISTICS = '/sys/kernel/debug/kvm';

/** Reads the counters of a VMM's processes and of its VM. */
export function readProcesses({ pid, backends = [] }: Processes): ProcessCounters {
  return { cpuSeconds: sum([pid, ...backends].map(cpuSecondsOf)), exits: exitsOf(pid) };
}

/** NaN without debugfs, without the permission to read it, and without a VM. */
function exitsOf(pid: number): number {
  try {
    const vm = readdirSync(KVM_STATISTICS).find((name) => name.startsWith(`${pid}-`)) ?? 'none';
    return Number(readFileSync(join(KVM_STATISTICS, vm, EXITS), 'latin1'));
  } catch {
    return Number.NaN;
  }
}

/** NaN when it has ended. */
function cpuSecondsOf(pid: number): number {
  try {
    const threads = readdirSync(`/proc/${pid}/task`).map((id) => `/proc/${pid}/task/${id}`);
    return sum([...threads, ...vhostThreads(pid)].map(threadSeconds));
  } catch {
    return Number.NaN;
  }
}

/** Seconds on a CPU, guests' time included (Documentation/scheduler/sched-stats.rst); 0 when it has just ended. */
function threadSeconds(folder: string): number {
  try {
    return Number(readFileSync(`${folder}/schedstat`, 'latin1').split(' ')[0]) / 1e9;
  } catch {
    return 0;
  }
}

/** Since Linux 6.4 vhost's workers are threads of the process that they work for. */
const VHOST_APART = ((): boolean => {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  return major < 6 || (major === 6 && minor < 4);
})();

/** Kernel threads that serve a process's vhost queues. */
function vhostThreads(pid: number): string[] {
  if (!VHOST_APART) return [];
  const all = readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name));
  return all
    .map((name) => `/proc/${name}`)
    .filter((folder) => {
      try {
        return readFileSync(`${folder}/comm`, 'latin1').trim() === `vhost-${pid}`;
      } catch {
        return false;
      }
    });
}

/** What costs are divided by. */
export type CostPer = 'gigabyte' | 'packet';

const nameOf = (of: string, label: string): string => `${of}: ${label}`;
const CPU = 'host CPU';
const EXITS_TO_VMM = 'exits to VMM';

/** The measures of the cost of another one's runs. */
export function costMeasures(of: string, per: CostPer): Measure[] {
  const [cpuUnit, exitsUnit] = per === 'gigabyte' ? ['s/GB', '/GB'] : ['us/packet', '/packet'];
  const cost = (label: string, unit: string): Measure => ({
    ...{ name: nameOf(of, label), unit, better: 'lower' },
    aspect: { of, label },
  });
  return [cost(CPU, cpuUnit), cost(EXITS_TO_VMM, exitsUnit)];
}

/** A sample of each of them. */
export function costSample(of: string, per: CostPer, counted: NetCounters): Sample {
  const { cpuSeconds, exits, packets, bytes } = counted;
  const [cpu, amount] =
    per === 'gigabyte' ? [cpuSeconds, bytes / 1e9] : [cpuSeconds * 1e6, packets];
  return { [nameOf(of, CPU)]: cpu / amount, [nameOf(of, EXITS_TO_VMM)]: exits / amount };
}
