/** Events of the Trace Event Format, one JSON object each. Times go in as milliseconds. */

/** Fields of an event, or what it has in `args`. */
export type Args = Readonly<Record<string, unknown>>;

/** Makes events, and tracks which B events are open. */
export class TraceEvents {
  readonly #emit: (json: string) => void;
  readonly #open = new Map<string, number>();

  /** @param emit gets one JSON object at a time */
  constructor(emit: (json: string) => void) {
    this.#emit = emit;
  }

  /** Names a process; they are sorted by their ids. */
  process(pid: number, name: string): void {
    this.#metadata('process_name', pid, 0, { name });
    this.#metadata('process_sort_index', pid, 0, { sort_index: pid });
  }

  /** Names a thread; they are sorted by their ids. */
  thread(pid: number, tid: number, name: string): void {
    this.#metadata('thread_name', pid, tid, { name });
    this.#metadata('thread_sort_index', pid, tid, { sort_index: tid });
  }

  begin(pid: number, tid: number, time: number, name: string, args: Args = {}): void {
    const key = `${pid} ${tid}`;
    this.#open.set(key, (this.#open.get(key) ?? 0) + 1);
    this.write('B', pid, tid, time, { name, cat: 'queue', args });
  }

  /** Closes the innermost B event; an end whose begin was dropped is dropped too. */
  end(pid: number, tid: number, time: number): void {
    const key = `${pid} ${tid}`;
    const depth = this.#open.get(key) ?? 0;
    if (depth === 0) return;
    this.#open.set(key, depth - 1);
    this.write('E', pid, tid, time);
  }

  /** Closes every B event that is open. */
  closeAll(time: number): void {
    for (const [key, depth] of this.#open) {
      const [pid, tid] = key.split(' ').map(Number) as [number, number];
      for (let i = 0; i < depth; i++) this.write('E', pid, tid, time);
    }
    this.#open.clear();
  }

  instant(pid: number, tid: number, time: number, name: string, args: Args = {}): void {
    this.write('i', pid, tid, time, { name, cat: 'event', s: 't', args });
  }

  /** An event of any phase. */
  write(ph: string, pid: number, tid: number, time: number, more: Args = {}): void {
    this.#emit(JSON.stringify({ ph, pid, tid, ts: micros(time), ...more }));
  }

  #metadata(name: string, pid: number, tid: number, args: Args): void {
    this.write('M', pid, tid, 0, { name, args });
  }
}

/** Microseconds with nanoseconds after the point, from milliseconds. */
export const micros = (ms: number): number => Math.round(ms * 1e6) / 1e3;

/** `0x1f` */
export const hex = (value: number): string => `0x${value.toString(16)}`;
