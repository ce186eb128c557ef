/** The calling thread's name, as top(1) and perf(1) show it. */
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const SYS_prctl = 157;
const PR_SET_NAME = 15;
/** TASK_COMM_LEN of the kernel, the closing zero included. */
const TASK_COMM_LEN = 16;

/** Names the calling thread; what is longer than 15 bytes is cut off. */
export function nameThread(name: string): void {
  const text = new NativeMemory(TASK_COMM_LEN);
  new TextEncoder().encodeInto(name, text.bytes.subarray(0, TASK_COMM_LEN - 1));
  sys.syscall(SYS_prctl, PR_SET_NAME, text.address);
}
