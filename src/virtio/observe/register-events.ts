/** A trace's view of a device's registers: each record as an event's name and arguments. */
import { type Args, hex } from './trace/trace-events.ts';
import * as record from './trace/trace-record.ts';
import { queueOf } from './trace/trace-record.ts';
import type { TraceRecord } from './trace/trace-ring.ts';

/**
 * @param status names the bits of a device's status
 * @returns undefined for a record that concerns no register
 */
export function registerEvent(
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
