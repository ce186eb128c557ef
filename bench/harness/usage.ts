/** Where a process's time goes, from outside: CPU by thread, and KVM's counters for its VM. */
import { readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

/** The processes that do a VMM's work. */
export interface Processes {
  /** The VMM itself. */
  readonly pid: number;
  /** Those that serve its devices, over vhost-user. */
  readonly backends?: readonly number[];
  /** KVM's counters for its VM, where the VMM reports them. */
  statistics?(): Promise<ReadonlyMap<string, number>>;
}

/** Counters over an interval. */
export interface Usage {
  readonly seconds: number;
  /** CPU seconds by thread name. */
  readonly threads: Readonly<Record<string, number>>;
  /** Exits and interrupts by KVM's names, per second; empty where they are unavailable. */
  readonly kvm: Readonly<Record<string, number>>;
}

type Counters = ReadonlyMap<string, number>;

/** The counters of a VMM's processes at one moment. */
export interface UsageCounters {
  /** Milliseconds, from performance.now(). */
  readonly at: number;
  /** CPU seconds by thread name; undefined when one of the processes has ended. */
  readonly threads: Counters | undefined;
  /** By KVM's names. */
  readonly kvm: Counters;
}

/** The counter of returns from KVM_RUN: KVM saves the guest's FPU state at each of them. */
export const EXITS_TO_USERSPACE = 'fpu_reload';
/** The counter of all exits from guest mode. */
export const ALL_EXITS = 'exits';

/** USER_HZ, which is 100 on x86-64 whatever the kernel's own tick. */
const TICKS_PER_SECOND = 100;
/** utime and stime of proc_pid_stat(5), counted from the field behind the name. */
const UTIME = 11;
const STIME = 12;
const KVM_STATISTICS = '/sys/kernel/debug/kvm';
/** Counters of arch/x86/kvm that show what a device costs. */
const KVM_COUNTERS: readonly string[] = [
  ALL_EXITS,
  EXITS_TO_USERSPACE,
  'io_exits',
  'mmio_exits',
  'halt_exits',
  'irq_exits',
  'signal_exits',
  'insn_emulation',
  'irq_injections',
];

/** Reads the counters of a VMM's processes and of its VM. */
export async function readUsage(processes: Processes): Promise<UsageCounters> {
  const { pid, backends = [] } = processes;
  const all = [
    { threads: readThreads(pid), prefix: '' },
    ...backends.map((backend) => ({ threads: readThreads(backend), prefix: 'backend ' })),
  ];
  const sums = new Map<string, number>();
  for (const { threads = [], prefix } of all) {
    for (const [name, seconds] of threads) add(sums, prefix + name, seconds);
  }
  const whole = all.every(({ threads }) => threads !== undefined);
  const at = performance.now();
  const fromDebugfs = readKvm(pid);
  const kvm = fromDebugfs.size > 0 ? fromDebugfs : await ask(processes);
  return { at, threads: whole ? sums : undefined, kvm };
}

function add(sums: Map<string, number>, name: string, value: number): void {
  sums.set(name, (sums.get(name) ?? 0) + value);
}

/** What happened between two moments; undefined when a process has ended. */
export function usageBetween(before: UsageCounters, after: UsageCounters): Usage | undefined {
  if (before.threads === undefined || after.threads === undefined) return undefined;
  const seconds = (after.at - before.at) / 1000;
  return {
    seconds,
    threads: difference(before.threads, after.threads, 1),
    kvm: difference(before.kvm, after.kvm, seconds),
  };
}

function difference(before: Counters, after: Counters, divisor: number): Record<string, number> {
  const pairs = [...after].map(
    ([name, count]) => [name, (count - (before.get(name) ?? 0)) / divisor] as const,
  );
  return Object.fromEntries(pairs.filter(([, value]) => value > 0));
}

function readThreads(pid: number): Counters | undefined {
  const sums = new Map<string, number>();
  const count = (folder: string): void => {
    const { name, seconds } = readThread(folder);
    add(sums, name, seconds);
  };
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) count(`/proc/${pid}/task/${thread}`);
    if (VHOST_APART) for (const folder of vhostThreads(pid)) count(folder);
    return sums;
  } catch {
    // A thread may end meanwhile.
    return sums.size > 0 ? sums : undefined;
  }
}

function readThread(folder: string): { name: string; seconds: number } {
  const stat = readFileSync(`${folder}/stat`, 'latin1');
  // The name may hold anything, including blanks and parentheses.
  const end = stat.lastIndexOf(')');
  const name = stat.slice(stat.indexOf('(') + 1, end);
  try {
    // Nanoseconds on a CPU, guests' time included (Documentation/scheduler/sched-stats.rst).
    const [nanoseconds] = readFileSync(`${folder}/schedstat`, 'latin1').split(' ');
    return { name, seconds: Number(nanoseconds) / 1e9 };
  } catch {
    const fields = stat.slice(end + 2).split(' ');
    const ticks = Number(fields[UTIME]) + Number(fields[STIME]);
    return { name, seconds: ticks / TICKS_PER_SECOND };
  }
}

/** Since Linux 6.4 vhost's workers are threads of the process that they work for. */
const VHOST_APART = ((): boolean => {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  return major < 6 || (major === 6 && minor < 4);
})();

/** Kernel threads that serve a process's vhost queues. */
function vhostThreads(pid: number): string[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .map((name) => `/proc/${name}`)
    .filter((folder) => {
      try {
        return readFileSync(`${folder}/comm`, 'latin1').trim() === `vhost-${pid}`;
      } catch {
        return false;
      }
    });
}

/** The same counters from the VMM itself, which needs no debugfs for them. */
async function ask({ statistics }: Processes): Promise<Counters> {
  const told = await statistics?.();
  return new Map([...(told ?? [])].filter(([name]) => KVM_COUNTERS.includes(name)));
}

function readKvm(pid: number): Counters {
  const sums = new Map<string, number>();
  try {
    for (const vm of readdirSync(KVM_STATISTICS)) {
      if (!vm.startsWith(`${pid}-`)) continue;
      for (const name of KVM_COUNTERS) {
        const count = Number(readFileSync(join(KVM_STATISTICS, vm, name), 'latin1'));
        add(sums, name, count);
      }
    }
  } catch {
    // No debugfs, or no permission.
  }
  return sums;
}
