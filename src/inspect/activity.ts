/** How often things happen, for drawings: from KVM's counters, and from the trace if the machine has one. */
import type { MachineMetrics } from '../machine/machine.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';

/** What a machine has counted. */
export interface MachineCounters {
  readonly metrics: MachineMetrics;
  /** Absent without a trace. */
  readonly trace?: TraceSummary;
}

/** Of one device, as texts such as `12 kicks/s`. */
export interface DeviceActivity {
  readonly kicks: string;
  readonly chains: string;
  readonly interrupts: string;
}

/** All of it, as texts. */
export interface Activity {
  /** Exits of all vCPUs; empty while nothing is known. */
  readonly exits: string;
  /** Of devices whose queues are traced, by name. */
  readonly devices: ReadonlyMap<string, DeviceActivity>;
}

export const NO_ACTIVITY: Activity = { exits: '', devices: new Map() };
/** Between two samples. */
const PERIOD_MS = 1000;

type Counts = ReadonlyMap<string, number>;
const KINDS = ['kicks', 'chains', 'interrupts'] as const;

/** Sums of a machine's exits, and of each traced device's queues. */
function countsOf({ metrics, trace }: MachineCounters): Counts {
  const counts = new Map<string, number>();
  const add = (name: string, count: number): void => {
    counts.set(name, (counts.get(name) ?? 0) + count);
  };
  for (const count of Object.values(metrics.exits)) add('user space', count);
  const { exits } = metrics.kvm;
  if (exits !== undefined) add('exits', exits);
  for (const queue of trace?.queues ?? []) {
    const name = trace?.devices[queue.device]?.name ?? '';
    for (const kind of KINDS) add(`${name} ${kind}`, queue[kind]);
  }
  return counts;
}

function activityOf(counts: Counts, text: (count: number, what: string) => string): Activity {
  const [all, toUser] = ['exits', 'user space'].map((name) => counts.get(name));
  const exits =
    all === undefined
      ? text(toUser ?? 0, 'exits to user space')
      : `${text(all, 'VM exits')}, ${text(toUser ?? 0, 'to user space')}`;
  const names = [...counts.keys()].flatMap((key) => /^(.*) kicks$/.exec(key)?.[1] ?? []);
  const devices = new Map(
    names.map((name) => {
      const of = (kind: (typeof KINDS)[number]): string =>
        text(counts.get(`${name} ${kind}`) ?? 0, kind);
      return [name, { kicks: of('kicks'), chains: of('chains'), interrupts: of('interrupts') }];
    }),
  );
  return { exits, devices };
}

/** Everything since power-on, or since the trace began. */
export function totalActivity(counters: MachineCounters): Activity {
  return activityOf(countsOf(counters), (count, what) => `${count} ${what}`);
}

/** Measures rates. */
export class ActivityMeter {
  readonly #read: () => Promise<MachineCounters>;
  readonly #now: () => number;
  #counts: Counts | undefined;
  #at = 0;
  #activity: Activity = NO_ACTIVITY;

  /** @param now milliseconds; tests substitute a clock of their own */
  constructor(read: () => Promise<MachineCounters>, now: () => number = () => performance.now()) {
    this.#read = read;
    this.#now = now;
  }

  /** The rates of the last second; nothing before the second sample. @throws as what it reads from */
  async current(): Promise<Activity> {
    const passed = this.#now() - this.#at;
    if (this.#counts !== undefined && passed < PERIOD_MS) return this.#activity;
    this.#at = this.#now();
    const counts = countsOf(await this.#read());
    const before = this.#counts;
    this.#counts = counts;
    if (before === undefined) return NO_ACTIVITY;
    const rates = new Map(
      [...counts].map(([name, count]) => {
        // A reset of the machine starts its counters from 0.
        const more = Math.max(0, count - (before.get(name) ?? 0));
        return [name, (more * 1000) / passed] as const;
      }),
    );
    this.#activity = activityOf(rates, (rate, what) => `${rateText(rate)} ${what}/s`);
    return this.#activity;
  }
}

function rateText(rate: number): string {
  return rate > 0 && rate < 10 ? rate.toFixed(1) : String(Math.round(rate));
}
