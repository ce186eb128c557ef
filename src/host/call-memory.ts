/**
 * What koffi maps in each thread for the stack and the arguments of its calls. koffi 3.3 never unmaps it: a
 * process that starts thousands of workers would reach vm.max_map_count. So each worker has it unmapped
 * when its environment is torn down, by which time nothing of JavaScript, hence no call, can run.
 */
import { readFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import koffi from 'koffi';
import { nativeAddon } from './native-addon.ts';

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

/** The main thread's lives as long as the process. */
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
