/**
 * The rules of the Trace Event Format that Perfetto and chrome://tracing hold an importer's input
 * to, for what our traces use of it.
 */

/** An event, as far as its phase lets it have these. */
export interface TraceEvent {
  readonly ph: string;
  readonly name?: string;
  readonly cat?: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur?: number;
  readonly id?: string;
  readonly s?: string;
  readonly args?: Readonly<Record<string, unknown>>;
}

/** A file that was read. */
export interface TraceContents {
  readonly displayTimeUnit: string;
  readonly traceEvents: readonly TraceEvent[];
  readonly otherData: Readonly<Record<string, unknown>>;
}

const METADATA: Readonly<Record<string, string>> = {
  process_name: 'string',
  process_sort_index: 'number',
  thread_name: 'string',
  thread_sort_index: 'number',
};

/** What is wrong with a trace: nothing, mostly. */
export function traceFaults(text: string): string[] {
  const faults: string[] = [];
  const trace = JSON.parse(text) as TraceContents;
  if (!['ms', 'ns'].includes(trace.displayTimeUnit)) faults.push('displayTimeUnit');
  if (!Array.isArray(trace.traceEvents)) return [...faults, 'no traceEvents'];
  const stacks = new Map<string, TraceEvent[]>();
  const asyncs = new Map<string, TraceEvent[]>();
  const last = new Map<string, number>();
  const completes = new Map<string, TraceEvent[]>();
  const named = new Set<string>();
  trace.traceEvents.forEach((event, at) => {
    const fault = (what: string): void =>
      void faults.push(`event ${at}: ${what}: ${JSON.stringify(event).slice(0, 200)}`);
    const isId = (id: unknown): boolean => Number.isInteger(id) && (id as number) >= 0;
    if (!isId(event.pid) || !isId(event.tid)) fault('pid and tid must be whole numbers');
    if (!Number.isFinite(event.ts) || event.ts < 0) fault('ts must be a time');
    const track = `${event.pid} ${event.tid}`;
    const mustBeNamed = (): void => {
      if (typeof event.name !== 'string' || event.name === '') fault('it has no name');
    };
    const inOrder = (): void => {
      if (event.ts < (last.get(track) ?? 0)) fault('time goes back on its track');
      last.set(track, event.ts);
    };
    if (event.ph !== 'M' && event.tid !== 0 && !named.has(track)) fault('a track without a name');
    switch (event.ph) {
      case 'M': {
        const value = Object.values(event.args ?? {});
        if (METADATA[event.name ?? ''] !== typeof value[0] || value.length !== 1) {
          fault('no such metadata');
        }
        if (event.name === 'thread_name') named.add(track);
        return;
      }
      case 'B':
        mustBeNamed();
        inOrder();
        stacks.set(track, [...(stacks.get(track) ?? []), event]);
        return;
      case 'E':
        inOrder();
        if (stacks.get(track)?.pop() === undefined) fault('an end without a begin');
        return;
      case 'X':
        mustBeNamed();
        if (!Number.isFinite(event.dur) || (event.dur as number) < 0) fault('dur must be a time');
        completes.set(track, [...(completes.get(track) ?? [])].concat(event));
        return;
      case 'i':
        mustBeNamed();
        if (!['g', 'p', 't'].includes(event.s ?? '')) fault('an instant needs a scope');
        if (event.s === 't') inOrder();
        return;
      case 'C':
        mustBeNamed();
        if (Object.values(event.args ?? {}).some((value) => typeof value !== 'number')) {
          fault('a counter counts numbers');
        }
        inOrder();
        return;
      case 'b':
      case 'n':
      case 'e': {
        mustBeNamed();
        if (typeof event.cat !== 'string' || typeof event.id !== 'string') {
          fault('an asynchronous event needs category and id');
        }
        const key = `${event.cat} ${event.id}`;
        const open = asyncs.get(key) ?? [];
        asyncs.set(key, open);
        if (event.ph === 'b') {
          const outer = open.at(-1);
          if (outer !== undefined && event.ts < outer.ts) fault('it begins before what it is in');
          open.push(event);
        } else if (event.ph === 'e') {
          const begin = open.pop();
          if (begin?.name !== event.name) fault('it ends what did not begin');
          else if (event.ts < (begin?.ts ?? 0)) fault('it ends before it begins');
        }
        return;
      }
      default:
        fault('no phase of the format');
    }
  });
  for (const [track, open] of stacks) if (open.length > 0) faults.push(`${track}: left open`);
  for (const [key, open] of asyncs) if (open.length > 0) faults.push(`${key}: left open`);
  for (const [track, events] of completes) {
    let end = 0;
    for (const { ts, dur = 0 } of events) {
      // Rounding to nanoseconds may make neighbours touch.
      if (ts < end - 0.002) faults.push(`${track}: events overlap at ${ts}`);
      end = ts + dur;
    }
  }
  return faults;
}

/** The events of a trace. */
export const traceEvents = (text: string): readonly TraceEvent[] =>
  (JSON.parse(text) as TraceContents).traceEvents;
