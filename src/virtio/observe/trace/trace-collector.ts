/**
 * Collects the records that all threads of a machine write into their rings: into a file for Perfetto, into
 * counts for a summary, or both. On the main thread.
 */
import { closeSync } from 'node:fs';
import { openOutputFile, reasonOf, writeFully } from '../../../host/output-file.ts';
import { onProcessExit } from '../../../host/threads.ts';
import { ChromeTrace, type TracedDevice, type TraceNames } from './chrome-trace.ts';
import {
  allocateTraceRing,
  monotonicOrigin,
  TraceReader,
  type TraceRecord,
  TraceWriter,
} from './trace-ring.ts';
import { TraceCounter, type TraceStatistics } from './trace-statistics.ts';

/** How often the rings are emptied. */
const PERIOD_MS = 20;
/** Readings of the clock that are kept: two for each power cycle. */
const MOST_CLOCKS = 256;
/** Characters that are written to the file at once. */
const CHUNK = 0x1_0000;

/** What a trace has recorded, and what it has missed. */
export interface TraceSummary extends TraceStatistics {
  readonly devices: TraceNames['devices'];
  /** Records lost to a full ring. */
  readonly dropped: number;
}

interface Source {
  readonly buffer: SharedArrayBuffer;
  readonly reader: TraceReader;
}

/** A trace from its start to `finish`, which also happens when the process exits. */
export class TraceCollector implements Disposable {
  readonly #sources = new Map<string, Source>();
  readonly #devices: TracedDevice[];
  readonly #file: TraceFile | undefined;
  readonly #chrome: ChromeTrace | undefined;
  readonly #counter = new TraceCounter();
  readonly #origin = monotonicOrigin();
  readonly #timer: NodeJS.Timeout;
  readonly #forget: () => void;
  readonly #clocks: object[] = [];
  #finished = false;
  /** Of the main thread. */
  readonly main: TraceWriter;

  /**
   * @param path of the file to write, or undefined for none
   * @param log receives lines for the user
   * @throws UsageError when the file cannot be made
   */
  constructor(names: TraceNames, path: string | undefined, log: (text: string) => void) {
    this.#devices = [...names.devices];
    if (path !== undefined) {
      const file = new TraceFile(path, log);
      this.#file = file;
      this.#chrome = new ChromeTrace(names, (json) => file.event(json));
    }
    this.main = new TraceWriter(this.ring('main'));
    this.#timer = setInterval(() => this.#collect(this.#now()), PERIOD_MS).unref();
    this.#forget = onProcessExit(() => this.finish());
  }

  /** Names a device that came later. @param number which, and another one's before, if that is gone */
  addDevice(number: number, device: TracedDevice): void {
    this.#devices[number] = device;
    this.#chrome?.addDevice(number, device);
  }

  /** The ring of a thread, or of a device's data half, which is served by one thread at a time. */
  ring(name: string): SharedArrayBuffer {
    let source = this.#sources.get(name);
    if (source === undefined) {
      const buffer = allocateTraceRing();
      source = { buffer, reader: new TraceReader(buffer) };
      this.#sources.set(name, source);
    }
    return source.buffer;
  }

  /** A reading of the guest's clock with those of the host at the same moment, for the file's end. */
  noteClock(reading: Readonly<Record<string, number | string>>): void {
    // A guest that reboots endlessly: the first one stays, and the latest.
    if (this.#clocks.length === MOST_CLOCKS) this.#clocks.splice(1, 1);
    this.#clocks.push({ host_monotonic_ns: Math.round(this.#now() * 1e6), ...reading });
  }

  /** What was recorded so far. */
  get summary(): TraceSummary {
    const devices = [...this.#devices];
    return { ...this.#counter.statistics, devices, dropped: this.#dropped };
  }

  /** Collects the rest and closes the file. Nothing is collected after it. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    clearInterval(this.#timer);
    this.#forget();
    this.#collect(Number.POSITIVE_INFINITY);
    this.#chrome?.finish();
    this.#file?.close({
      dropped_records: this.#dropped,
      clock: 'CLOCK_MONOTONIC',
      clocks: this.#clocks,
    });
  }

  [Symbol.dispose](): void {
    this.finish();
  }

  get #dropped(): number {
    return [...this.#sources.values()].reduce((sum, { reader }) => sum + reader.dropped, 0);
  }

  #now(): number {
    return this.#origin + performance.now();
  }

  #collect(until: number): void {
    const records: TraceRecord[] = [];
    const take = (one: TraceRecord): void => void records.push(one);
    // From every ring the same stretch of time, so that the records can be sorted.
    for (const { reader } of this.#sources.values()) reader.drain(until, take);
    records.sort((a, b) => a.time - b.time);
    for (const one of records) {
      this.#counter.take(one);
      this.#chrome?.take(one);
    }
  }
}

/** The JSON object format: `traceEvents`, then data about the trace. */
class TraceFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #log: (text: string) => void;
  #text = '{"displayTimeUnit":"ns","traceEvents":[';
  #first = true;
  #failed = false;

  constructor(path: string, log: (text: string) => void) {
    this.#path = path;
    this.#log = log;
    this.#fd = openOutputFile('a trace', path, 'E_TRACE');
  }

  event(json: string): void {
    this.#text += this.#first ? `\n${json}` : `,\n${json}`;
    this.#first = false;
    if (this.#text.length >= CHUNK) this.#flush();
  }

  close(otherData: object): void {
    this.#text += `\n],"otherData":${JSON.stringify(otherData)}}\n`;
    this.#flush();
    closeSync(this.#fd);
  }

  #flush(): void {
    const text = this.#text;
    this.#text = '';
    // A full disk ends the trace, not the machine.
    if (this.#failed) return;
    try {
      writeFully(this.#fd, text);
    } catch (error) {
      this.#failed = true;
      this.#log(`the trace in ${this.#path} ends here: ${reasonOf(error)}`);
    }
  }
}
