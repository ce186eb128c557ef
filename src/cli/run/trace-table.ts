/** The tables of `--trace=summary`. */
import { exitName } from '../../kvm/exit-names.ts';
import type { TraceSummary } from '../../virtio/observe/trace/trace-collector.ts';
import type { LatencySummary, QueueSummary } from '../../virtio/observe/trace/trace-statistics.ts';
import { aligned } from '../terminal/text-table.ts';

const TRAFFIC = [
  'queue',
  'kicks',
  'chains',
  'per kick',
  'batch mean',
  'max',
  'interrupts',
  'suppressed',
  'kicks/s',
  'chains/s',
  'interrupts/s',
];
const PERCENTILES = ['count', 'p50', 'p90', 'p99', 'max'];
const TIMES = ['microseconds', ...PERCENTILES];
const EXITS = ['exits, microseconds in user space', ...PERCENTILES];

/** Readable lines: what each queue did, how long it took, and why vCPUs left the guest. */
export function traceTable(summary: TraceSummary): string[] {
  const { duration, dropped, queues, exits, devices } = summary;
  const name = ({ device, queue }: QueueSummary): string => {
    const known = devices[device];
    return `${known?.name ?? device} ${known?.queues[queue] ?? queue}`;
  };
  const seconds = duration / 1e3;
  const lines = [`trace of ${seconds.toFixed(1)} s`];
  if (dropped > 0) lines.push(`${dropped} records were dropped: the numbers are too low`);
  const busy = queues.filter(({ kicks, chains }) => kicks + chains > 0);
  lines.push(
    '',
    ...aligned([TRAFFIC, ...busy.map((queue) => traffic(name(queue), queue, seconds))]),
  );
  lines.push('', ...aligned([TIMES, ...busy.flatMap((queue) => times(name(queue), queue))]));
  const reasons = exits.map(({ reason, time }) => [exitName(reason), ...latency(time)]);
  lines.push('', ...aligned([EXITS, ...reasons]));
  return lines;
}

function traffic(name: string, queue: QueueSummary, seconds: number): string[] {
  const { kicks, chains, batches, largestBatch, interrupts, suppressed } = queue;
  return [
    name,
    String(kicks),
    String(chains),
    ratio(chains, kicks),
    ratio(chains, batches),
    String(largestBatch),
    String(interrupts),
    percent(suppressed, batches),
    ratio(kicks, seconds),
    ratio(chains, seconds),
    ratio(interrupts, seconds),
  ];
}

function times(name: string, queue: QueueSummary): string[][] {
  const spans = [
    ['kick to served', queue.kickToServed],
    ['served to interrupt', queue.servedToInterrupt],
    ['request', queue.request],
  ] as const;
  return spans
    .filter(([, { count }]) => count > 0)
    .map(([what, span]) => [`${name}: ${what}`, ...latency(span)]);
}

function latency({ count, p50, p90, p99, max }: LatencySummary): string[] {
  return [String(count), ...[p50, p90, p99, max].map((ms) => (ms * 1e3).toFixed(1))];
}

const ratio = (a: number, b: number): string => (b === 0 ? '-' : (a / b).toFixed(1));

const percent = (a: number, b: number): string => (b === 0 ? '-' : `${Math.round((100 * a) / b)}%`);
