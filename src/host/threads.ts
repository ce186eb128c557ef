/** Threads that block in system calls: how they are woken, named, and leave no memory behind. */

import { readFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import { InternalError } from './errors.ts';
import { koffi } from './koffi.ts';
import { nativeAddon } from './native-addon.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';
import { bind } from './syscall.ts';

/*
 * The last-resort wake-up. process.exit() and an uncaught exception make Node wait for every worker,
 * forever if one blocks; so the process's 'exit' event wakes them all, synchronously. Whatever would
 * outlive the process is removed by the same list.
 */

const exitNative = bind('void _exit(int status)');

const wakes = new Set<() => void>();

function wakeAll(): void {
  for (const wake of wakes) wake();
}

/**
 * Ends the process without waiting for its threads, as `process.exit` does. What would outlive the
 * process is removed first.
 */
export function endAtOnce(status: number): never {
  process.emit('exit', status);
  exitNative(status);
  throw new InternalError('_exit returned');
}

/**
 * Registers a wake-up for a thread, or the removal of a file.
 * @param wake called at process exit; must not throw, nor rely on the event loop
 * @returns unregisters it
 */
export function onProcessExit(wake: () => void): () => void {
  if (wakes.size === 0) process.on('exit', wakeAll);
  wakes.add(wake);
  return () => {
    if (wakes.delete(wake) && wakes.size === 0) process.off('exit', wakeAll);
  };
}

/*
 * Kicks: a real-time signal whose handler does nothing takes a thread out of a system call (KVM_RUN,
 * epoll_wait, read). Neither Node nor libuv blocks signals in workers, so no mask is needed.
 *
 * A signal that arrives just before the call is lost. So the kicker first sets what the call
 * itself checks: `kvm_run.immediate_exit` for KVM_RUN (KVM API 5).
 */

let signal = 0;

/** Installs the handler, process-wide; must come before the first kick. Returns the signal's number. */
export function installKickSignal(): number {
  if (signal === 0) signal = sys.check(nativeAddon().installKick(), 'sigaction', 'the kick signal');
  return signal;
}

/**
 * Makes a thread's blocking system call return -EINTR.
 * @param tid the thread's id, as `sys.gettid()` returned it there
 * @returns 0, or -ESRCH when the thread is gone
 */
export function kickThread(tid: number): number {
  return sys.tgkill(process.pid, tid, installKickSignal());
}

const SYS_prctl = 157;
const PR_SET_NAME = 15;
/** TASK_COMM_LEN of the kernel, the closing zero included. */
const TASK_COMM_LEN = 16;

/** Names the calling thread for top(1) and perf(1); longer names are cut to 15 bytes. */
export function nameThread(name: string): void {
  const text = new NativeMemory(TASK_COMM_LEN);
  new TextEncoder().encodeInto(name, text.bytes.subarray(0, TASK_COMM_LEN - 1));
  sys.syscall(SYS_prctl, PR_SET_NAME, text.address);
}

/** What a thread of this process does: it runs or could, or it is blocked in a system call; undefined when it is gone. */
export function threadState(tid: number): 'running' | 'blocked' | undefined {
  try {
    const stat = readFileSync(`/proc/self/task/${tid}/stat`, 'latin1');
    // proc(5): its name, in parentheses, may hold some.
    return stat.charAt(stat.lastIndexOf(')') + 2) === 'R' ? 'running' : 'blocked';
  } catch {
    return undefined;
  }
}

/*
 * koffi 3.3 maps a stack and a heap for the calls of each thread and never unmaps them: a process
 * that starts thousands of workers would reach vm.max_map_count. So each worker has them unmapped
 * when its environment is torn down, after which no JavaScript, hence no call, can run.
 */

const PAGE = 4096;
/** glibc's ucontext_t on x86-64: its size is 968, and gregs[REG_RSP] is at 40 + 15 * 8. */
const UCONTEXT_SIZE = 1024;
const UCONTEXT_RSP = 160;

interface Range {
  readonly start: number;
  readonly end: number;
}

/** A mapping of this process, by a line of /proc/self/maps. */
interface Mapping extends Range {
  readonly permissions: string;
}

/** Has the calling worker's call memory unmapped at its end; the main thread's lives as long as the process. */
export function releaseCallMemoryAtExit(): void {
  if (isMainThread) return;
  for (const { start, end } of callMemory()) nativeAddon().unmapAtExit(start, end - start);
}

/** Where koffi's calls of this thread take place; nothing that is not surely theirs. */
function callMemory(): Range[] {
  const libc = koffi.load('libc.so.6');
  const { sync_stack_size: stackSize, sync_heap_size: heapSize } = koffi.config() as Record<
    'sync_stack_size' | 'sync_heap_size',
    number
  >;
  // A function that stores the stack pointer that it was called with, less than a page below the end.
  const context = new Uint8Array(UCONTEXT_SIZE);
  libc.func('int getcontext(void *context)')(context);
  const rsp = Number(new DataView(context.buffer).getBigUint64(UCONTEXT_RSP, true));
  const stackEnd = Math.ceil(rsp / PAGE) * PAGE;
  // A function that returns its argument, the first thing in the memory for arguments.
  const heap = libc.func('int64_t strchr(const char *text, int character)')('x', 0x78) as number;

  const mappings = readMappings();
  // A guard page below, a spare page above.
  const guard = { start: stackEnd - stackSize - PAGE, end: stackEnd - stackSize };
  const stack = { start: guard.end, end: stackEnd + PAGE };
  const found: Range[] = [];
  if (isMapped(mappings, guard, '---p') && isMapped(mappings, stack, 'rw-p')) {
    found.push({ start: guard.start, end: stack.end });
  }
  const arguments_ = { start: heap, end: heap + heapSize };
  if (heap % PAGE === 0 && isMapped(mappings, arguments_, 'rw-p')) found.push(arguments_);
  return found;
}

function readMappings(): Mapping[] {
  return readFileSync('/proc/self/maps', 'latin1')
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [range = '', permissions = ''] = line.split(' ', 2);
      const [start = 0, end = 0] = range.split('-').map((address) => Number.parseInt(address, 16));
      return { start, end, permissions };
    });
}

/** True when one mapping with these permissions holds the range; the kernel joins neighbors. */
function isMapped(
  mappings: readonly Mapping[],
  { start, end }: Range,
  permissions: string,
): boolean {
  return mappings.some(
    (mapping) =>
      mapping.permissions === permissions && mapping.start <= start && mapping.end >= end,
  );
}
