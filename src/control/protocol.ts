/** Requests to a machine that runs in another process: a line of JSON each way. */

import type { Readable } from 'node:stream';
import { UsageError } from '../host/errors.ts';
import type { DatapathName } from '../machine/devices/queue-service.ts';
import type { InspectFilter, MachineInspection } from '../machine/inspect.ts';
import { given } from '../options/option-schema.ts';

/** Bytes of the longest line. */
export const LINE_MAX = 65536;

/** `hold`: take no more buffers from a queue. `step`: take one more, then none. `release`: end the hold. */
export type QueueOrder = (typeof QUEUE_ORDERS)[number];
export const QUEUE_ORDERS = ['hold', 'step', 'release'] as const;

/** What is answered with how the machine is then. */
export type ControlOrder =
  | { readonly call: 'status' }
  | { readonly call: 'pause' | 'resume' | 'stop' | 'pressPowerButton' }
  | { readonly call: 'move'; readonly device: string; readonly datapath: DatapathName }
  | { readonly call: 'link'; readonly device: string; readonly up: boolean }
  | { readonly call: QueueOrder; readonly device: string; readonly queue: string };

/** A question or an order. */
export type ControlRequest = ControlOrder | ({ readonly call: 'inspect' } & InspectFilter);

/** The status of a machine. */
export interface MachineStatus {
  readonly pid: number;
  readonly name: string;
  readonly state: string;
  /** By device name. */
  readonly datapaths: Readonly<Record<string, DatapathName>>;
  /** Exits to userspace since power-on. */
  readonly exits: number;
  /** What KVM counted of all vCPUs since power-on, by its own names. */
  readonly statistics: Readonly<Record<string, number>>;
}

/** The answer: how the machine is afterwards, what is in its devices, or why neither. */
export type ControlReply =
  | { readonly status: MachineStatus }
  | { readonly inspection: MachineInspection }
  | { readonly error: { readonly code: string; readonly message: string } };

/** The places by name. */
export const DATAPATHS: readonly DatapathName[] = ['userspace', 'vhost'];

/** Reads a request. @throws UsageError when it is none */
export function parseRequest(line: string): ControlRequest {
  const request = parseObject(line);
  const { call, device, datapath, up, queue } = request;
  switch (call) {
    case 'status':
    case 'pause':
    case 'resume':
    case 'stop':
    case 'pressPowerButton':
      return { call };
    case 'move': {
      const place = DATAPATHS.find((known) => known === datapath);
      if (typeof device === 'string' && place !== undefined) {
        return { call, device, datapath: place };
      }
      break;
    }
    case 'link':
      if (typeof device === 'string' && typeof up === 'boolean') return { call, device, up };
      break;
    case 'hold':
    case 'step':
    case 'release':
      if (typeof device === 'string' && typeof queue === 'string') return { call, device, queue };
      break;
    case 'inspect':
      if (isTextOrAbsent(device) && isTextOrAbsent(queue)) {
        return given({ call, device, queue });
      }
  }
  throw new UsageError('E_CONTROL', `not a request of this version: ${line.slice(0, 200)}`);
}

function isTextOrAbsent(value: unknown): value is string | undefined {
  return value === undefined || typeof value === 'string';
}

function parseObject(line: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // Reported below.
  }
  throw new UsageError('E_CONTROL', 'a request is one line with a JSON object');
}

/**
 * The lines of a stream, without what follows the last newline.
 * @param most characters of the longest line
 * @throws UsageError when a line is longer
 */
export async function* linesOf(stream: Readable, most: number): AsyncGenerator<string> {
  let begun: string[] = [];
  let length = 0;
  for await (const chunk of stream.setEncoding('utf8') as AsyncIterable<string>) {
    const pieces = chunk.split('\n');
    for (const [i, piece] of pieces.entries()) {
      begun.push(piece);
      length += piece.length;
      if (length > most) {
        throw new UsageError('E_CONTROL', `a line has at most ${most} characters`);
      }
      if (i === pieces.length - 1) continue;
      yield begun.join('');
      begun = [];
      length = 0;
    }
  }
}
