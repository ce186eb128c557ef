/** Starts a vCPU in a thread of its own. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Vcpu } from '../../src/kvm/vcpu.ts';
import type { Outcome } from './vcpu-thread.ts';

/** A vCPU that runs in its own thread until its next exit. */
export interface RunningVcpu {
  /** The thread's id, for kicks. */
  readonly tid: number;
  readonly outcome: Promise<Outcome>;
}

/** Resolves when the thread is about to enter the guest. */
export async function runInThread(vcpu: Vcpu): Promise<RunningVcpu> {
  const worker = new Worker(new URL('./vcpu-thread.js', import.meta.url), {
    workerData: vcpu.share,
    execArgv: [],
  });
  const [{ tid }] = (await once(worker, 'message')) as [{ tid: number }];
  const outcome = (async () => {
    const [message] = (await once(worker, 'message')) as [Outcome];
    await once(worker, 'exit');
    return message;
  })();
  return { tid, outcome };
}
