/** poll(2) of one descriptor, without waiting. */
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

/** struct pollfd: fd, events, revents. */
const pollfd = new NativeMemory(8);
const POLLIN = 1;

/** True when a read from the descriptor would not block. */
export function isReadable(fd: number): boolean {
  pollfd.view.setInt32(0, fd, true);
  pollfd.view.setInt16(4, POLLIN, true);
  return sys.poll(pollfd.address, 1, 0) > 0;
}
