/** Observes a machine when its options ask for it: the trace, and the check of the rules. */

import { statusText } from '../abi/virtio-names.ts';
import { exitName } from '../kvm/exit-names.ts';
import type { Vm } from '../kvm/vm.ts';
import type { Breach, Observation } from '../virtio/observe/observation.ts';
import type { TracedDevice } from '../virtio/observe/trace/chrome-trace.ts';
import { TraceCollector, type TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import * as record from '../virtio/observe/trace/trace-record.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import type { ResolvedOptions } from './resolve-options.ts';

/** A rule of virtio that a driver or a device broke, on one of a machine's devices. */
export interface RuleBreach extends Breach {
  /** The device's name: `blk0`. */
  readonly device: string;
}

/** Observes a machine from its creation to its end, over all of its power cycles. */
export class MachineObserver implements Disposable {
  readonly collector: TraceCollector | undefined;
  readonly check: boolean;
  readonly #report: (breach: RuleBreach) => void;
  readonly #reported = new Map<string, RuleBreach>();

  /**
   * @param log receives lines for the user
   * @param report gets each breach, once per rule, device and queue
   * @throws UsageError when the trace's file cannot be made
   */
  constructor(
    options: Pick<ResolvedOptions, 'trace' | 'check' | 'cpus' | 'maxCpus'>,
    devices: readonly MachineDevice[],
    log: (text: string) => void,
    report: (breach: RuleBreach) => void,
  ) {
    const { trace, cpus, maxCpus = cpus } = options;
    this.check = options.check;
    this.#report = report;
    if (trace !== undefined)
      this.collector = new TraceCollector(namesOf(devices, maxCpus), trace.file, log);
    devices.forEach((device, index) => {
      this.#watch(device, index);
    });
  }

  /** Observes a device that came later. @param number as `MachineDevices.numberOf` */
  add(device: MachineDevice, number: number): void {
    this.collector?.addDevice(number, tracedDevice(device));
    this.#watch(device, number);
  }

  #watch(device: MachineDevice, number: number): void {
    const observation = this.#observation(number);
    if (observation === undefined) return;
    const breach = (one: Breach): void => this.#breach(device.name, one);
    device.watch?.(observation, breach, this.collector?.main);
  }

  /** The trace so far; absent without one. */
  get summary(): TraceSummary | undefined {
    return this.collector?.summary;
  }

  /** All breaches so far. */
  get breaches(): readonly RuleBreach[] {
    return [...this.#reported.values()];
  }

  /** Records which guest time matches this host time. */
  noteClock(vm: Vm): void {
    const clock = this.collector === undefined ? undefined : vm.clock();
    if (clock === undefined) return;
    this.collector?.main.write(record.CLOCK, 0, 0, 0, clock.nanoseconds, clock.flags);
    const { nanoseconds, flags, realtime, hostTsc } = clock;
    this.collector?.noteClock({
      guest_ns: nanoseconds,
      flags,
      ...(realtime === undefined ? {} : { host_realtime_ns: realtime }),
      // More than a JSON number can hold.
      ...(hostTsc === undefined ? {} : { host_tsc: String(hostTsc) }),
    });
  }

  /** Completes the trace. */
  [Symbol.dispose](): void {
    this.collector?.finish();
  }

  #observation(device: number): Observation | undefined {
    const trace = this.collector?.ring(`device${device}`);
    if (trace === undefined && !this.check) return undefined;
    return { device, check: this.check, ...(trace === undefined ? {} : { trace }) };
  }

  #breach(device: string, breach: Breach): void {
    const key = `${device} ${breach.queue} ${breach.side} ${breach.rule}`;
    if (this.#reported.has(key)) return;
    const reported = { ...breach, device };
    this.#reported.set(key, reported);
    this.#report(reported);
  }
}

function tracedDevice({ name, queueNames }: MachineDevice): TracedDevice {
  return { name, queues: queueNames };
}

function namesOf(devices: readonly MachineDevice[], cpus: number) {
  return {
    devices: devices.map(tracedDevice),
    cpus,
    exit: exitName,
    status: statusText,
  };
}
