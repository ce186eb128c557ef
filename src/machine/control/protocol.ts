/** Requests to a machine that runs in another process: a line of JSON each way. */

import type { Readable } from 'node:stream';
import { UsageError } from '../../host/errors.ts';
import { given } from '../../options/option-schema.ts';
import type { MachineDeviceOptions } from '../../virtio/device-type.ts';
import type { BalloonState } from '../balloon.ts';
import type { DatapathName } from '../devices/queue-service.ts';
import type { RemovalOptions } from '../hotplug.ts';
import type { InspectFilter } from '../inspect.ts';
import type { DroppedOutput, MachineState, VirtualMachineEvents } from '../machine.ts';
import type { MemoryState } from '../memory-size.ts';

const NEWLINE = 0x0a;
/** Bytes of the longest line. */
export const LINE_MAX = 65536;
/** A machine that needs longer than this for an answer sends an empty line as often. */
export const KEEP_ALIVE_MS = 5000;
/** One that is silent for longer than this hangs. */
export const SILENCE_MS = 30_000;

/** `hold`: take no more buffers from a queue. `step`: take one more, then none. `release`: end the hold. */
export type QueueOrder = (typeof QUEUE_ORDERS)[number];
export const QUEUE_ORDERS = ['hold', 'step', 'release'] as const;

/** What is done to its power and identity. */
type PowerOrder = 'pressPowerButton' | 'pressSleepButton' | 'wake' | 'renewGeneration';

/** What is answered with how the machine is then. */
export type ControlOrder =
  | { readonly call: 'status' }
  | { readonly call: 'start' | 'pause' | 'resume' | 'stop' | PowerOrder }
  | { readonly call: 'move'; readonly device: string; readonly datapath: DatapathName }
  | { readonly call: 'link'; readonly device: string; readonly up: boolean }
  | { readonly call: 'resizeDisk'; readonly device: string; readonly bytes?: number }
  | ({ readonly call: 'setCpus'; readonly count: number } & Pick<RemovalOptions, 'timeout'>)
  | ({ readonly call: 'removeDevice'; readonly device: string } & RemovalOptions)
  | { readonly call: QueueOrder; readonly device: string; readonly queue: string }
  | { readonly call: 'reload'; readonly device: string }
  | { readonly call: 'balloon'; readonly target: number }
  | { readonly call: 'memory'; readonly size: number }
  | { readonly call: 'resize'; readonly columns: number; readonly rows: number };

/** What is answered with a value. */
export type ControlQuestion =
  | ({ readonly call: 'inspect' } & InspectFilter)
  | { readonly call: 'addDevice'; readonly device: MachineDeviceOptions }
  | { readonly call: 'metrics' | 'traceSummary' | 'balloonStatistics' };

/**
 * What a connection can become once the request is answered: the bytes of a console, or of a connection to a vsock
 * port of the guest; `events` as lines of `ControlEvent`; a conversation with the guest's agent (`AgentBroker`).
 */
export type ControlStream = (typeof CONTROL_STREAMS)[number];
const CONTROL_STREAMS = ['console', 'serial', 'events', 'agent', 'vsock'] as const;

/** A request for a stream. */
export interface ControlOpen {
  readonly call: 'open';
  readonly stream: ControlStream;
  /** Of `vsock`. */
  readonly port?: number;
}

/** A question, an order, or a request for a stream. */
export type ControlRequest = ControlOrder | ControlQuestion | ControlOpen;

/** The status of a machine. */
export interface MachineStatus {
  readonly pid: number;
  readonly name: string;
  readonly state: MachineState;
  /** By device name. */
  readonly datapaths: Readonly<Record<string, DatapathName>>;
  /** Exits to userspace since power-on. */
  readonly exits: number;
  /** What KVM counted of all vCPUs since power-on, by its own names. */
  readonly statistics: Readonly<Record<string, number>>;
  readonly droppedOutput: DroppedOutput;
  readonly memory: MemoryState;
  /** Absent: it has no balloon. */
  readonly balloon?: BalloonState;
}

/** An error, as JSON carries it. */
export interface ControlError {
  /** The name of its class. */
  readonly name: string;
  readonly code: string;
  readonly problem: string;
  readonly remedy?: string;
}

/** The answer: how the machine is afterwards, the answer to a question, or why neither. */
export type ControlReply =
  | { readonly status: MachineStatus }
  | { readonly value: unknown }
  | { readonly error: ControlError };

/** An event of the machine, and how it is then. */
export interface ControlEvent<
  Name extends keyof VirtualMachineEvents = keyof VirtualMachineEvents,
> {
  readonly event: Name;
  readonly values: VirtualMachineEvents[Name];
  readonly status: MachineStatus;
}

/** The places by name. */
export const DATAPATHS: readonly DatapathName[] = [
  'userspace',
  'vhost',
  'vhost-shadow',
  'vhost-user',
  'vdpa',
];

type Check = (value: unknown) => boolean;
const isText: Check = (value) => typeof value === 'string';
const isTextOrAbsent: Check = (value) => value === undefined || typeof value === 'string';
const isObject: Check = (value) => typeof value === 'object' && value !== null;
const isFlagOrAbsent: Check = (value) => value === undefined || typeof value === 'boolean';
const isFlag: Check = (value) => typeof value === 'boolean';
const isSize: Check = (value) =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) < 0x10000;
const isIntegerOrAbsent: Check = (value) => value === undefined || Number.isInteger(value);
const isBytes: Check = (value) => Number.isSafeInteger(value);
const oneOf =
  (known: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && known.includes(value);

/** The requests, and what each carries. */
const REQUESTS: Readonly<Record<ControlRequest['call'], Readonly<Record<string, Check>>>> = {
  status: {},
  start: {},
  pause: {},
  resume: {},
  stop: {},
  pressPowerButton: {},
  pressSleepButton: {},
  wake: {},
  renewGeneration: {},
  move: { device: isText, datapath: oneOf(DATAPATHS) },
  link: { device: isText, up: isFlag },
  resizeDisk: { device: isText, bytes: isIntegerOrAbsent },
  setCpus: { count: isSize, timeout: isIntegerOrAbsent },
  addDevice: { device: isObject },
  removeDevice: { device: isText, surprise: isFlagOrAbsent, timeout: isIntegerOrAbsent },
  hold: { device: isText, queue: isText },
  step: { device: isText, queue: isText },
  release: { device: isText, queue: isText },
  reload: { device: isText },
  balloon: { target: isBytes },
  memory: { size: isBytes },
  resize: { columns: isSize, rows: isSize },
  inspect: { device: isTextOrAbsent, queue: isTextOrAbsent },
  metrics: {},
  traceSummary: {},
  balloonStatistics: {},
  open: { stream: oneOf(CONTROL_STREAMS), port: isIntegerOrAbsent },
};

/** Reads a request. @throws UsageError when it is none */
export function parseRequest(line: string): ControlRequest {
  const request = parseObject(line);
  const { call } = request;
  if (typeof call === 'string' && Object.hasOwn(REQUESTS, call)) {
    const checks = Object.entries(REQUESTS[call as ControlRequest['call']]);
    if (checks.every(([key, check]) => check(request[key]))) {
      const values = checks.map(([key]) => [key, request[key]]);
      return given({ call, ...Object.fromEntries(values) }) as ControlRequest;
    }
  }
  throw new UsageError('E_CONTROL', `not a request of this version: ${line.slice(0, 200)}`);
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
 * The lines of a stream of bytes, without what follows the last newline. A reader that stops finds the bytes after its
 * last line in the stream.
 * @param most bytes of the longest line
 * @throws UsageError when a line is longer
 */
export async function* linesOf(stream: Readable, most: number): AsyncGenerator<string, void> {
  let begun: Buffer[] = [];
  let length = 0;
  let rest: Buffer = Buffer.alloc(0);
  const add = (bytes: Buffer): void => {
    length += bytes.length;
    if (length > most) throw new UsageError('E_CONTROL', `a line has at most ${most} bytes`);
    begun.push(bytes);
  };
  try {
    for await (const chunk of stream.iterator({
      destroyOnReturn: false,
    }) as AsyncIterable<Buffer>) {
      rest = chunk;
      for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
        add(rest.subarray(0, end));
        rest = rest.subarray(end + 1);
        const line = Buffer.concat(begun).toString();
        begun = [];
        length = 0;
        yield line;
      }
      add(rest);
      rest = rest.subarray(rest.length);
    }
  } finally {
    if (rest.length > 0 && !stream.readableEnded && !stream.destroyed) stream.unshift(rest);
  }
}
