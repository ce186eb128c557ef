/** Where a process's time goes, from outside: CPU by thread, and what KVM counts for its VM. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Counters of a stretch of time. */
export interface Usage {
  readonly seconds: number;
  /** CPU seconds by thread name. */
  readonly threads: Readonly<Record<string, number>>;
  /** Exits and interrupts by KVM's names, per second; empty without debugfs. */
  readonly kvm: Readonly<Record<string, number>>;
}

/** USER_HZ, which is 100 on x86-64 whatever the kernel's own tick. */
const TICKS_PER_SECOND = 100;
/** utime and stime of proc_pid_stat(5), counted from the field behind the name. */
const UTIME = 11;
const STIME = 12;
const KVM_STATISTICS = '/sys/kernel/debug/kvm';
/** Counters of arch/x86/kvm that show what a device costs. */
const KVM_COUNTERS = [
  'exits',
  'io_exits',
  'mmio_exits',
  'halt_exits',
  'irq_exits',
  'signal_exits',
  'insn_emulation',
  'irq_injections',
] as const;

type Counters = Map<string, number>;

/** Starts counting. @returns reads the counters; undefined when the process has ended */
export function countUsage(pid: number): () => Usage | undefined {
  const begin = performance.now();
  const threads = readThreads(pid);
  const kvm = readKvm(pid);
  return () => {
    const seconds = (performance.now() - begin) / 1000;
    const after = readThreads(pid);
    if (threads === undefined || after === undefined) return undefined;
    return {
      seconds,
      threads: difference(threads, after, TICKS_PER_SECOND),
      kvm: difference(kvm, readKvm(pid), seconds),
    };
  };
}

function difference(before: Counters, after: Counters, divisor: number): Record<string, number> {
  const pairs = [...after].map(
    ([name, count]) => [name, (count - (before.get(name) ?? 0)) / divisor] as const,
  );
  return Object.fromEntries(pairs.filter(([, value]) => value > 0));
}

function readThreads(pid: number): Counters | undefined {
  const sums: Counters = new Map();
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
      // The name may hold anything, also blanks and parentheses.
      const end = stat.lastIndexOf(')');
      const name = stat.slice(stat.indexOf('(') + 1, end);
      const fields = stat.slice(end + 2).split(' ');
      const ticks = Number(fields[UTIME]) + Number(fields[STIME]);
      sums.set(name, (sums.get(name) ?? 0) + ticks);
    }
    return sums;
  } catch {
    return sums.size > 0 ? sums : undefined;
  }
}

function readKvm(pid: number): Counters {
  const sums: Counters = new Map();
  try {
    for (const vm of readdirSync(KVM_STATISTICS)) {
      if (!vm.startsWith(`${pid}-`)) continue;
      for (const name of KVM_COUNTERS) {
        const count = Number(readFileSync(join(KVM_STATISTICS, vm, name), 'latin1'));
        sums.set(name, (sums.get(name) ?? 0) + count);
      }
    }
  } catch {
    // No debugfs, or not for us.
  }
  return sums;
}
