/** What packets and requests cost their host: CPU time of the VMM's processes, and exits of its VM in KVM. */
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
  /** Exits of the guest to KVM. */
  readonly exits: number;
  /** Of these, returns from KVM_RUN to user space. */
  readonly exitsToVmm: number;
}

/** What happened between two readings. */
export const between = <C extends { readonly [K in keyof C]: number }>(before: C, after: C): C =>
  Object.fromEntries(
    Object.entries<number>(after).map(([key, value]) => [key, value - before[key as keyof C]]),
  ) as C;

/** KVM's counters of them: it saves the guest's FPU state at each return. */
const EXITS = 'exits';
const EXITS_TO_USER_SPACE = 'fpu_reload';
const KVM_STATISTICS = '/sys/kernel/debug/kvm';

/** Reads the counters of a VMM's processes and of its VM. */
export function readProcesses({ pid, backends = [] }: Processes): ProcessCounters {
  return {
    cpuSeconds: sum([pid, ...backends].map(cpuSecondsOf)),
    exits: counterOf(pid, EXITS),
    exitsToVmm: counterOf(pid, EXITS_TO_USER_SPACE),
  };
}

/** NaN without debugfs, without the permission to read it, and without a VM. */
function counterOf(pid: number, counter: string): number {
  try {
    const vm = readdirSync(KVM_STATISTICS).find((name) => name.startsWith(`${pid}-`)) ?? 'none';
    return Number(readFileSync(join(KVM_STATISTICS, vm, counter), 'latin1'));
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
export type CostPer = 'gigabyte' | 'packet' | 'request';

const nameOf = (of: string, label: string): string => `${of}: ${label}`;
const CPU = 'host CPU';
const ALL_EXITS = 'exits';
const EXITS_TO_VMM = 'exits to VMM';

/** The measures of the cost of another one's runs. */
export function costMeasures(of: string, per: CostPer): Measure[] {
  const [cpuUnit, exitsUnit] = per === 'gigabyte' ? ['s/GB', '/GB'] : [`us/${per}`, `/${per}`];
  const cost = (label: string, unit: string): Measure => ({
    ...{ name: nameOf(of, label), unit, better: 'lower' },
    aspect: { of, label },
  });
  return [cost(CPU, cpuUnit), cost(ALL_EXITS, exitsUnit), cost(EXITS_TO_VMM, exitsUnit)];
}

/** A sample of each of them. @param amount bytes, packets or requests */
export function costSample(
  of: string,
  per: CostPer,
  { cpuSeconds, exits, exitsToVmm }: ProcessCounters,
  amount: number,
): Sample {
  const [cpu, units] = per === 'gigabyte' ? [cpuSeconds, amount / 1e9] : [cpuSeconds * 1e6, amount];
  return {
    [nameOf(of, CPU)]: cpu / units,
    [nameOf(of, ALL_EXITS)]: exits / units,
    [nameOf(of, EXITS_TO_VMM)]: exitsToVmm / units,
  };
}
