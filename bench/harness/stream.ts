/** A run's events from the lab to the process outside: a JSON line each, so that they survive the lab. */
import type { Host } from './host.ts';
import type { Result } from './measure.ts';
import type { Omission } from './report.ts';

/** One line. */
export type StreamEvent =
  | { readonly kind: 'host'; readonly host: Host }
  | { readonly kind: 'results'; readonly results: readonly Result[] }
  | { readonly kind: 'omission'; readonly omission: Omission }
  | { readonly kind: 'progress'; readonly text: string; readonly fraction?: number };

/** One line, with its end. NaN and infinities do not occur: samples are finite. */
export const encodeEvent = (event: StreamEvent): string => `${JSON.stringify(event)}\n`;

/** Parses the pieces of a stream into events; a line that never ended was lost with its sender. */
export class EventReader {
  readonly #take: (event: StreamEvent) => void;
  #rest = '';

  constructor(take: (event: StreamEvent) => void) {
    this.#take = take;
  }

  push(piece: string): void {
    const lines = (this.#rest + piece).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#take(JSON.parse(line) as StreamEvent);
  }
}
