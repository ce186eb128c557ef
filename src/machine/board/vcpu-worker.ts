/** The thread of one vCPU. Its module graph is small: buses and registers, no device models. */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { InternalError } from '../../host/errors.ts';
import * as sys from '../../host/syscall.ts';
import { nameThread, releaseCallMemoryAtExit } from '../../host/threads.ts';
import { dumpVcpu, summarizeExit } from '../../kvm/dump.ts';
import { Vcpu, type VcpuShare } from '../../kvm/vcpu.ts';
import { GuestMemory, type GuestMemoryShare } from '../../memory/guest-memory.ts';
import { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import { Board, type BoardMessage, type BoardPlan } from './board.ts';
import { ExitLoop, type LoopEnd, TracedVcpu } from './exit-loop.ts';
import type { LatePlan } from './late-devices.ts';

/** What the thread is started with. */
export interface VcpuWorkerData {
  readonly plan: BoardPlan;
  readonly vcpu: VcpuShare;
  readonly memory: GuestMemoryShare;
  /** Ring for this thread's trace records; absent: nothing is traced. */
  readonly trace?: SharedArrayBuffer;
}

/** Its messages to the main thread. */
export type VcpuMessage =
  | BoardMessage
  | { readonly kind: 'paused'; readonly vcpu: number }
  | {
      readonly kind: 'ended';
      readonly vcpu: number;
      readonly end: LoopEnd;
      /** A line about an unexpected end. */
      readonly summary?: string;
      /** Registers and code at an unexpected end. */
      readonly dump?: string;
    };

const port = parentPort;
if (port === null) throw new InternalError('vcpu-worker is not a program');
const { plan, vcpu: share, memory, trace } = workerData as VcpuWorkerData;
const post = (message: VcpuMessage): void => port.postMessage(message);

nameThread(`vcpu${share.id}`);
releaseCallMemoryAtExit();
const tracer = trace === undefined ? undefined : new TraceWriter(trace);
const vcpu = tracer === undefined ? new Vcpu(share) : new TracedVcpu(share, tracer);
// This thread has no event loop: the board takes messages when it finds that there are some.
const receive = (): LatePlan | undefined =>
  (receiveMessageOnPort(port) as { message: LatePlan } | undefined)?.message;
const board = new Board(plan, post, tracer, receive);
const loop = new ExitLoop(vcpu, board, () => post({ kind: 'paused', vcpu: share.id }));
let end: LoopEnd;
try {
  end = loop.run(sys.gettid());
} finally {
  board.control.setThreadId(share.id, 0);
}
if (end === 'unhandled' || end === 'triple-fault') {
  const guest = new GuestMemory(memory);
  const summary = summarizeExit(vcpu);
  post({ kind: 'ended', vcpu: share.id, end, summary, dump: dumpVcpu(vcpu, guest) });
} else if (end === 'failed') {
  const summary = `KVM_RUN failed: ${sys.errnoName(loop.errno)}`;
  post({ kind: 'ended', vcpu: share.id, end, summary });
} else {
  post({ kind: 'ended', vcpu: share.id, end });
}
