/**
 * Last-resort wake-up of threads that block in a system call. process.exit() and an uncaught
 * exception make Node wait for every worker, for ever if one blocks; so the process's 'exit' event
 * wakes them all, synchronously. What would outlive the process is removed by the same list.
 */

const wakes = new Set<() => void>();

function wakeAll(): void {
  for (const wake of wakes) wake();
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
