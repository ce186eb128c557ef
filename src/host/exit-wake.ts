/**
 * Last-resort wake-up of threads that block in a system call. process.exit() and an uncaught
 * exception make Node wait for every worker, for ever if one blocks; so the process's 'exit' event
 * wakes them all, synchronously. What would outlive the process is removed by the same list.
 */

import { InternalError } from './errors.ts';
import { bind } from './syscall.ts';

const exitNative = bind('void _exit(int status)');

const wakes = new Set<() => void>();

function wakeAll(): void {
  for (const wake of wakes) wake();
}

/**
 * Ends the process whatever its threads do: `process.exit` waits for each of them. What would outlive
 * the process is removed first.
 */
export function endAtOnce(status: number): never {
  process.emit('exit', status);
  exitNative(status);
  throw new InternalError('_exit returned');
}

/**
 * Registers a wake-up for a thread, or the removal of a file.
 * @param wake called at process exit; must not throw, nor rely on the event loop
 * @returns takes the registration back
 */
export function onProcessExit(wake: () => void): () => void {
  if (wakes.size === 0) process.on('exit', wakeAll);
  wakes.add(wake);
  return () => {
    if (wakes.delete(wake) && wakes.size === 0) process.off('exit', wakeAll);
  };
}
