/**
 * Turns trace records into events of the Trace Event Format, the JSON that Perfetto and
 * chrome://tracing open. A device is a process, each of its queues a thread of it; the vCPUs are
 * threads of a process of their own. Time is the host's CLOCK_MONOTONIC in microseconds.
 */

import { type Args, hex, micros, TraceEvents } from './trace-events.ts';
import * as record from './trace-record.ts';
import { deviceOf, queueOf } from './trace-record.ts';
import type { TraceRecord } from './trace-ring.ts';

/** A device, as the trace shows it. */
export interface TracedDevice {
  readonly name: string;
  /** Names of its queues. */
  readonly queues: readonly string[];
}

/** The names that appear in a trace. */
export interface TraceNames {
  readonly devices: readonly TracedDevice[];
  readonly cpus: number;
  /** The header's name of an exit reason. */
  exit(reason: number): string;
  /** Names of the bits of a device's status. */
  status(value: number): string;
}

const VCPUS_PID = 1;
const FIRST_DEVICE_PID = 2;
const REGISTERS_TID = 1;
const HANDLER_TID = 2;
const FIRST_QUEUE_TID = 10;

interface Segment {
  readonly address: string;
  readonly length: number;
  readonly direction: 'readable' | 'writable';
}

interface OpenChain {
  readonly id: number;
  readonly at: number;
  readonly count: number;
  readonly readable: number;
  readonly writable: number;
  readonly segments: Segment[];
}

/** The open work of a queue. */
class QueueTrack {
  readonly chains = new Map<number, OpenChain>();
  last: OpenChain | undefined;
  /** Chains popped and not yet used; more than `chains` when a driver cheats with ids. */
  inFlight = 0;
  /** When the kick being served began, and the one that the open span is for. */
  kick: number | undefined;
  span: number | undefined;
  served = 0;
}

/** Converts records to events; they must come in the order of their times. */
export class ChromeTrace {
  readonly #names: TraceNames;
  readonly #events: TraceEvents;
  readonly #tracks = new Map<number, QueueTrack>();
  /** Guest clock less host clock, in milliseconds. */
  #guestOffset: number | undefined;
  readonly #registerTimes = new Map<number, number>();
  #spans = 0;
  #end = 0;

  /** @param emit gets one JSON object at a time */
  constructor(names: TraceNames, emit: (json: string) => void) {
    this.#names = names;
    this.#events = new TraceEvents(emit);
    this.#describe();
  }

  take(one: TraceRecord): void {
    this.#end = Math.max(this.#end, one.time);
    switch (one.what) {
      case record.EXIT:
        this.#exit(one);
        return;
      case record.CLOCK:
        this.#clock(one);
        return;
      default:
        if (queueOf(one.whom) === record.DEVICE_ITSELF) this.#device(one);
        else this.#queue(one);
    }
  }

  /** Closes what is still open, so that every begin has its end. */
  finish(): void {
    for (const [whom, track] of this.#tracks) {
      for (const chain of track.chains.values()) this.#request(whom, chain, this.#end, {});
      track.chains.clear();
    }
    this.#events.closeAll(this.#end);
  }

  #describe(): void {
    const { devices, cpus } = this.#names;
    const events = this.#events;
    events.process(VCPUS_PID, 'vCPUs');
    for (let cpu = 0; cpu < cpus; cpu++) events.thread(VCPUS_PID, 1 + cpu, `vcpu${cpu}`);
    devices.forEach((device, index) => {
      this.addDevice(index, device);
    });
  }

  /** Names a device. A viewer shows the last name of a number. */
  addDevice(number: number, { name, queues }: TracedDevice): void {
    const pid = FIRST_DEVICE_PID + number;
    const events = this.#events;
    events.process(pid, name);
    events.thread(pid, REGISTERS_TID, 'registers');
    events.thread(pid, HANDLER_TID, 'data half');
    queues.forEach((queue, i) => {
      events.thread(pid, FIRST_QUEUE_TID + i, `${queue} (queue ${i})`);
    });
  }

  #exit({ time, whom, a, b, x, y }: TraceRecord): void {
    const name = this.#names.exit(a);
    const args = { address: hex(y), bytes: b };
    this.#events.write('X', VCPUS_PID, 1 + whom, x, {
      name,
      cat: 'exit',
      dur: micros(time - x),
      ...(b === 0 ? {} : { args }),
    });
  }

  #clock({ time, x, y }: TraceRecord): void {
    this.#guestOffset = x / 1e6 - time;
    this.#events.write('i', VCPUS_PID, 0, time, {
      name: 'clocks',
      s: 'g',
      args: { guest_us: x / 1e3, host_monotonic_us: micros(time), flags: y },
    });
  }

  #device(one: TraceRecord): void {
    const { time, whom, what, a, b } = one;
    const pid = FIRST_DEVICE_PID + deviceOf(whom);
    switch (what) {
      case record.READY:
        this.#events.begin(pid, HANDLER_TID, time, 'ready', { token: a, events: b });
        return;
      case record.READY_END:
        this.#events.end(pid, HANDLER_TID, time);
        return;
      case record.SERVED:
        this.#events.instant(pid, HANDLER_TID, time, 'start');
        return;
      case record.STOPPED:
        this.#events.instant(pid, HANDLER_TID, time, 'stop');
        return;
      default: {
        const event = iommuRecord(one);
        if (event === undefined) this.#registers(one);
        else this.#events.instant(pid, HANDLER_TID, time, event.name, event.args);
      }
    }
  }

  /** Written with the register lock held, but by several threads: clocks may differ by a little. */
  #registers(one: TraceRecord): void {
    const event = registerRecord(one, this.#names.status);
    if (event === undefined) return;
    const pid = FIRST_DEVICE_PID + deviceOf(one.whom);
    const time = Math.max(one.time, this.#registerTimes.get(pid) ?? 0);
    this.#registerTimes.set(pid, time);
    this.#events.instant(pid, REGISTERS_TID, time, event.name, event.args);
  }

  #queue(one: TraceRecord): void {
    const { time, whom, what, a, b, x } = one;
    const track = this.#track(whom);
    const pid = FIRST_DEVICE_PID + deviceOf(whom);
    const tid = FIRST_QUEUE_TID + queueOf(whom);
    switch (what) {
      case record.KICK:
        track.kick = time;
        this.#events.begin(pid, tid, time, 'kick', this.#guestTime(time));
        return;
      case record.KICK_END:
        track.kick = undefined;
        this.#events.end(pid, tid, time);
        return;
      case record.POP:
        this.#popped(one, track);
        return;
      case record.SEGMENT: {
        const direction = b === 1 ? 'writable' : 'readable';
        track.last?.segments.push({ address: hex(x), length: one.y, direction });
        return;
      }
      case record.UNDO_POP: {
        const chain = track.chains.get(a);
        track.chains.delete(a);
        track.inFlight--;
        if (chain !== undefined) this.#request(whom, chain, time, { given_back: true });
        this.#counter(whom, track, time);
        return;
      }
      case record.PUSH: {
        const chain = track.chains.get(a);
        track.chains.delete(a);
        track.inFlight--;
        if (chain !== undefined) this.#request(whom, chain, time, { written: x });
        this.#counter(whom, track, time);
        return;
      }
      case record.PUBLISH:
        track.served = time;
        this.#events.instant(pid, tid, time, 'publish', { chains: a, interrupt: b === 1 });
        if (b === 0) this.#span(whom, track, time);
        return;
      case record.INTERRUPT:
        this.#events.instant(pid, tid, time, 'interrupt', this.#guestTime(time));
        this.#span(whom, track, time, time);
        return;
      case record.KICKS_ON:
        this.#events.instant(pid, tid, time, 'kicks on', { more: a === 1 });
        return;
      case record.KICKS_OFF:
        this.#events.instant(pid, tid, time, 'kicks off');
        return;
      default:
        this.#registers(one);
    }
  }

  #popped({ time, whom, a, b, x, y }: TraceRecord, track: QueueTrack): void {
    const chain = { id: a, at: time, count: b, readable: x, writable: y, segments: [] };
    track.last = chain;
    track.chains.set(a, chain);
    track.inFlight++;
    // Chains taken while a kick is served are that kick's work, until the driver is notified.
    if (track.kick !== undefined) track.span ??= track.kick;
    this.#counter(whom, track, time);
  }

  /** From taking a chain to using it. */
  #request(whom: number, chain: OpenChain, time: number, more: Args): void {
    const { id, at, readable, writable, segments } = chain;
    const args = { head: id, descriptors: segments, readable, writable, ...more };
    const event = { name: 'request', cat: 'request', id: this.#nextSpan() };
    this.#async('b', whom, at, { ...event, args });
    this.#async('e', whom, time, event);
  }

  /**
   * The span that a kick began: to the interrupt for its results, or to the publishing when the
   * driver wanted no interrupt.
   */
  #span(whom: number, track: QueueTrack, time: number, interrupt?: number): void {
    const start = track.span;
    if (start === undefined) return;
    track.span = undefined;
    const id = this.#nextSpan();
    const event = (name: string) => ({ name, cat: 'kick', id });
    const outer = event(interrupt === undefined ? 'kick to use' : 'kick to interrupt');
    const first = event('kick to served');
    const served = Math.min(Math.max(track.served, start), time);
    this.#async('b', whom, start, outer);
    this.#async('b', whom, start, first);
    this.#async('e', whom, served, first);
    if (interrupt !== undefined) {
      const second = event('served to interrupt');
      this.#async('b', whom, served, second);
      this.#async('e', whom, time, second);
    }
    this.#async('e', whom, time, outer);
  }

  #counter(whom: number, track: QueueTrack, time: number): void {
    const pid = FIRST_DEVICE_PID + deviceOf(whom);
    const tid = FIRST_QUEUE_TID + queueOf(whom);
    const name = `in flight, queue ${queueOf(whom)}`;
    this.#events.write('C', pid, tid, time, {
      name,
      args: { chains: Math.max(0, track.inFlight) },
    });
  }

  #async(ph: 'b' | 'e', whom: number, time: number, event: Args): void {
    const pid = FIRST_DEVICE_PID + deviceOf(whom);
    this.#events.write(ph, pid, FIRST_QUEUE_TID + queueOf(whom), time, event);
  }

  #guestTime(time: number): Args {
    if (this.#guestOffset === undefined) return {};
    return { guest_us: micros(time + this.#guestOffset) };
  }

  #nextSpan(): string {
    return hex(++this.#spans);
  }

  #track(whom: number): QueueTrack {
    let track = this.#tracks.get(whom);
    if (track === undefined) {
      track = new QueueTrack();
      this.#tracks.set(whom, track);
    }
    return track;
  }
}

/**
 * A record of a device's registers as an event's name and arguments.
 * @param status names the bits of a device's status
 * @returns undefined for a record that concerns no register
 */
function registerRecord(
  { whom, what, a, b, x }: TraceRecord,
  status: (value: number) => string,
): { readonly name: string; readonly args: Args } | undefined {
  switch (what) {
    case record.STATUS:
      return {
        name: `status ${status(b)}`,
        args: { written: hex(b), before: status(a), after: status(x) },
      };
    case record.FEATURES_OFFERED:
      return { name: 'features offered', args: { select: a, bits: hex(x) } };
    case record.FEATURES_ACCEPTED:
      return { name: 'features accepted', args: { select: a, bits: hex(x) } };
    case record.CONFIG_READ:
      return { name: 'config read', args: { offset: a, bytes: b, value: hex(x) } };
    case record.CONFIG_WRITE:
      return { name: 'config write', args: { offset: a, bytes: b, value: hex(x) } };
    case record.QUEUE_ENABLED:
      return {
        name: 'queue enabled',
        args: { queue: queueOf(whom), size: a, descriptor_area: hex(x) },
      };
    case record.QUEUE_RESET:
      return { name: 'queue reset', args: { queue: queueOf(whom) } };
    case record.DEVICE_RESET:
      return { name: 'reset', args: {} };
    case record.NEEDS_RESET:
      return { name: 'device needs reset', args: {} };
    case record.CONFIG_CHANGED:
      return { name: 'config changed', args: {} };
    default:
      return undefined;
  }
}

/** A record of an IOMMU as an event's name and arguments; undefined for any other record. */
function iommuRecord({
  what,
  a,
  b,
  x,
  y,
}: TraceRecord): { readonly name: string; readonly args: Args } | undefined {
  switch (what) {
    case record.IOMMU_ATTACH:
      return { name: 'attach', args: { endpoint: a, domain: b } };
    case record.IOMMU_DETACH:
      return { name: 'detach', args: { endpoint: a, domain: b } };
    case record.IOMMU_MAP: {
      const access = ['none', 'r', 'w', 'rw'][b & 3];
      const args = { domain: a, address: hex(x), guest_physical: hex(y), pages: b >>> 2, access };
      return { name: 'map', args };
    }
    case record.IOMMU_UNMAP:
      return { name: 'unmap', args: { domain: a, from: hex(x), to: hex(y), mappings: b } };
    case record.IOMMU_FAULT:
      return {
        name: 'fault',
        args: { endpoint: a, address: hex(x), access: b === 1 ? 'w' : 'r' },
      };
    default:
      return undefined;
  }
}
