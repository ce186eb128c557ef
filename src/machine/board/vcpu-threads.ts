/** All vCPU threads of a VM: starts them, brings them to rest, ends them, on every way out. */
import { Worker } from 'node:worker_threads';
import { KVM_MP_STATE_UNINITIALIZED } from '../../abi/kvm-ioctl.ts';
import { installKickSignal, kickThread, onProcessExit } from '../../host/threads.ts';
import type { Vcpu, VcpuShare } from '../../kvm/vcpu.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import {
  REQUEST_HOLD,
  REQUEST_PAUSE,
  REQUEST_RUN,
  REQUEST_STOP,
} from '../../state/vcpu-control.ts';
import type { Board, BoardPlan } from './board.ts';
import type { LatePlan } from './late-devices.ts';
import type { VcpuMessage, VcpuWorkerData } from './vcpu-worker.ts';

/** What the threads report to their owner. */
export interface VcpuThreadEvents {
  message(message: VcpuMessage): void;
  /** A thread ended with an exception: a bug, or the host ran out of a resource. */
  crashed(error: Error): void;
}

/** The threads of one VM. They hold before the guest's first instruction until `resume`. */
export class VcpuThreads {
  readonly #plan: BoardPlan;
  readonly #board: Board;
  readonly #vcpus: readonly Vcpu[];
  readonly #memory: GuestMemoryShare;
  readonly #events: VcpuThreadEvents;
  readonly #trace: (thread: string) => SharedArrayBuffer | undefined;
  readonly #workers = new Map<number, Worker>();
  readonly #ended = new Map<number, Promise<void>>();
  /** The plans of late devices, by slot. */
  readonly #late = new Map<number, LatePlan>();
  readonly #forget: () => void;
  readonly #alive = new Set<number>();
  readonly #resting = new Set<number>();
  #atRest: (() => void) | undefined;

  /**
   * @param trace returns the ring for a thread's trace records, if it is traced
   * @param present the vCPUs that the guest has. Default: all
   */
  constructor(
    plan: BoardPlan,
    board: Board,
    vcpus: readonly Vcpu[],
    memory: GuestMemoryShare,
    events: VcpuThreadEvents,
    trace: (thread: string) => SharedArrayBuffer | undefined = () => undefined,
    present: number = vcpus.length,
  ) {
    installKickSignal();
    this.#plan = plan;
    this.#board = board;
    this.#vcpus = vcpus;
    this.#memory = memory;
    this.#events = events;
    this.#trace = trace;
    board.control.request = REQUEST_HOLD;
    this.#forget = onProcessExit(() => this.#request(REQUEST_STOP));
    for (const { share } of vcpus.slice(0, present)) this.#start(share);
  }

  #start(share: VcpuShare): void {
    const { id } = share;
    const name = `vcpu${id}`;
    const ring = this.#trace(name);
    const traced = ring === undefined ? {} : { trace: ring };
    const data: VcpuWorkerData = {
      plan: this.#plan,
      vcpu: share,
      memory: this.#memory,
      ...traced,
    };
    this.#alive.add(id);
    const worker = new Worker(new URL('./vcpu-worker.js', import.meta.url), {
      name,
      workerData: data,
      execArgv: [],
    });
    this.#workers.set(id, worker);
    worker.on('message', (message: VcpuMessage) => {
      if (message.kind === 'paused') this.#paused(message.vcpu);
      else this.#events.message(message);
    });
    worker.on('error', (error) => this.#events.crashed(error));
    const ended = new Promise<void>((resolve) => {
      worker.on('exit', () => {
        this.#alive.delete(id);
        this.#workers.delete(id);
        this.#ended.delete(id);
        this.#checkRest();
        resolve();
      });
    });
    this.#ended.set(id, ended);
  }

  /** Starts the thread of a vCPU that the guest got, which waits for the guest to start it in turn. */
  add(cpu: number): void {
    const vcpu = this.#vcpus[cpu];
    if (vcpu === undefined || this.#workers.has(cpu)) return;
    this.#board.control.park(cpu, false);
    this.#start(vcpu.share);
    const worker = this.#workers.get(cpu);
    for (const late of this.#late.values()) worker?.postMessage(late);
  }

  /** Ends the thread of a vCPU that the guest has no longer. */
  async remove(cpu: number): Promise<void> {
    const vcpu = this.#vcpus[cpu];
    if (vcpu === undefined) return;
    this.#board.control.park(cpu, true);
    this.#kick(vcpu);
    // One that rests looks again.
    const { control } = this.#board;
    const { request } = control;
    control.request = request;
    await this.#ended.get(cpu);
    // As before its first INIT, wherever a guest left it that did not take it offline.
    vcpu.mpState = KVM_MP_STATE_UNINITIALIZED;
  }

  /** Sends the plan of a late device to every thread, which takes it when its board asks for it. */
  announce(late: LatePlan): void {
    this.#late.set(late.slot, late);
    for (const worker of this.#workers.values()) worker.postMessage(late);
  }

  /** The vCPUs that have a thread. */
  get present(): number[] {
    return [...this.#workers.keys()].sort((a, b) => a - b);
  }

  /** Resolves when every vCPU that has not ended has come to rest. */
  async pause(): Promise<void> {
    this.#resting.clear();
    const rest = new Promise<void>((resolve) => {
      this.#atRest = resolve;
    });
    this.#request(REQUEST_PAUSE);
    this.#checkRest();
    await rest;
  }

  resume(): void {
    // A guest without kvm-clock cannot be notified, and has no watchdog that checks.
    if (this.#board.control.request === REQUEST_PAUSE) {
      for (const vcpu of this.#vcpus) vcpu.notePause();
    }
    this.#request(REQUEST_RUN);
  }

  /** Resolves when every thread has ended. */
  async stop(): Promise<void> {
    this.#request(REQUEST_STOP);
    await Promise.all(this.#ended.values());
    this.#forget();
  }

  /** Exits of all vCPUs so far, by reason. */
  exitCounts(): number[] {
    const sums: number[] = [];
    for (const { share } of this.#vcpus) {
      this.#board.control.exitCounters(share.id).forEach((count, reason) => {
        sums[reason] = (sums[reason] ?? 0) + count;
      });
    }
    return sums;
  }

  #request(request: number): void {
    this.#board.control.request = request;
    if (request === REQUEST_RUN) return;
    for (const vcpu of this.#vcpus) this.#kick(vcpu);
  }

  /**
   * A thread that is not in KVM_RUN yet sees the request before it enters, or finds `immediate_exit` set: one kick is
   * enough.
   */
  #kick(vcpu: Vcpu): void {
    vcpu.immediateExit = true;
    const threadId = this.#board.control.threadId(vcpu.share.id);
    if (threadId !== 0) kickThread(threadId);
  }

  #paused(vcpu: number): void {
    this.#resting.add(vcpu);
    this.#checkRest();
  }

  #checkRest(): void {
    for (const vcpu of this.#alive) if (!this.#resting.has(vcpu)) return;
    this.#atRest?.();
    this.#atRest = undefined;
  }
}
