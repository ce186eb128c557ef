/**
 * Kicking a thread out of a system call (KVM_RUN, epoll_wait, read) by a real-time signal whose
 * handler does nothing. Neither Node nor libuv blocks signals in workers, so no mask is needed.
 *
 * The signal alone can come just before the call and be lost. Whoever kicks therefore first sets
 * what the call itself looks at: `kvm_run.immediate_exit` for KVM_RUN (KVM API 5).
 */
import { nativeAddon } from './native-addon.ts';
import * as sys from './syscall.ts';

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
