/** vCPUs that come and go. */
import { type Deferred, defer } from '../agent/command.ts';
import type { StepQueue } from '../datapath/datapath.ts';
import { inTime } from '../host/deadline.ts';
import { PeerError, UsageError } from '../host/errors.ts';
import type { PowerCycle } from './power-cycle.ts';

const TIMEOUT_MS = 30_000;

/** The parts of a machine that it is about. */
export interface CpuHotplugParts {
  readonly cpus: number;
  /** Absent: their number does not change. */
  readonly maxCpus: number | undefined;
  readonly steps: StepQueue;
  readonly log: (text: string) => void;
  /** While the guest is powered on. */
  cycle(): PowerCycle | undefined;
  isPaused(): boolean;
}

/** One for each machine. */
export class CpuHotplug {
  readonly #parts: CpuHotplugParts;
  /** By vCPU: who waits for the guest to give it up. */
  readonly #asked = new Map<number, Deferred<void>>();
  #count: number;

  constructor(parts: CpuHotplugParts) {
    this.#parts = parts;
    this.#count = parts.cpus;
  }

  /** How many the guest has from the next power-on on. */
  get count(): number {
    return this.#count;
  }

  /** As `Machine.setCpus`. */
  async set(count: number, timeout = TIMEOUT_MS): Promise<void> {
    const { maxCpus, steps } = this.#parts;
    if (maxCpus === undefined || count < 1 || count > maxCpus || !Number.isInteger(count)) {
      throw new UsageError(
        'E_CPUS',
        maxCpus === undefined
          ? 'this machine keeps the vCPUs that it has'
          : `this machine can have 1 to ${maxCpus} vCPUs, not ${count}`,
        maxCpus === undefined ? 'start it with maxCpus (--max-cpus)' : undefined,
      );
    }
    const excess = await steps.run(async () => {
      const cycle = this.#parts.cycle();
      this.#count = count;
      if (cycle === undefined) return [];
      const { cpus } = cycle;
      for (let cpu = 0; cpu < count; cpu++) if (!cpus.includes(cpu)) cycle.addCpu(cpu);
      return cpus.filter((cpu) => cpu >= count);
    });
    if (excess.length === 0) return;
    if (this.#parts.isPaused()) {
      throw new UsageError('E_STATE', 'a paused guest cannot give up vCPUs', 'resume it first');
    }
    await this.#askBack(excess, timeout);
  }

  /** The guest gave up a vCPU. */
  async ejected(cpu: number): Promise<void> {
    const { steps, log } = this.#parts;
    await steps.run(async () => {
      const cycle = this.#parts.cycle();
      await cycle?.removeCpu(cpu);
      const asked = this.#asked.get(cpu);
      this.#asked.delete(cpu);
      asked?.resolve();
      if (asked !== undefined) return;
      this.#count = cycle?.cpus.length ?? this.#count;
      log(`the guest ejected vCPU ${cpu}`);
    });
  }

  /** The guest is powered off, or about to start again with those that it is to have. */
  poweredOff(): void {
    for (const asked of this.#asked.values()) asked.resolve();
    this.#asked.clear();
  }

  async #askBack(cpus: readonly number[], timeout: number): Promise<void> {
    const gone = cpus.map((cpu) => {
      const asked = this.#asked.get(cpu) ?? defer<void>();
      this.#asked.set(cpu, asked);
      this.#parts.cycle()?.askBackCpu(cpu, true);
      return asked.promise;
    });
    const isDone = await inTime(
      Promise.all(gone).then(() => true),
      timeout,
      () => false,
    );
    if (isDone) return;
    const kept = cpus.filter((cpu) => this.#asked.delete(cpu));
    for (const cpu of kept) this.#parts.cycle()?.askBackCpu(cpu, false);
    this.#count = this.#parts.cycle()?.cpus.length ?? this.#count;
    throw new PeerError(
      'E_EJECT',
      `the guest did not give up vCPU ${kept.join(', ')} within ${timeout / 1000} s`,
    );
  }
}
