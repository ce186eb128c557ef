/** Starts a vCPU in a thread of its own. */
import { on, once } from 'node:events';
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
  // Both messages may come in one turn of the event loop: a listener that is added between them is too late.
  const messages = on(worker, 'message');
  const next = async (): Promise<unknown> => (await messages.next()).value[0];
  const exited = once(worker, 'exit');
  const { tid } = (await next()) as { tid: number };
  const outcome = (async () => {
    const message = (await next()) as Outcome;
    await exited;
    return message;
  })();
  return { tid, outcome };
}
