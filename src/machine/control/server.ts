/** A running machine's control socket, which only its user can reach. */

import { lstatSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { Closeable } from '../../host/cleanup-stack.ts';
import { UsageError } from '../../host/errors.ts';
import { isListening, ListenPath } from '../../host/listen-path.ts';
import { runtimeFolder } from '../../host/private-folder.ts';
import type { MachineDeviceOptions } from '../../virtio/device-type.ts';
import type { TraceSummary } from '../../virtio/observe/trace/trace-collector.ts';
import type { MachineBalloon } from '../balloon.ts';
import type { DatapathName } from '../devices/queue-service.ts';
import type { RemovalOptions } from '../hotplug.ts';
import type { InspectFilter, MachineInspection } from '../inspect.ts';
import type { DroppedOutput, MachineMetrics, MachineState } from '../machine.ts';
import type { MemoryState } from '../memory-size.ts';
import { encodeError } from './control-error.ts';
import {
  type ControlOrder,
  type ControlReply,
  KEEP_ALIVE_MS,
  LINE_MAX,
  linesOf,
  type MachineStatus,
  parseRequest,
} from './protocol.ts';
import { carryStream, type OpenedStream, openStream, type StreamedMachine } from './streams.ts';

/** What a machine answers to. */
export interface ControlledMachine extends StreamedMachine {
  readonly state: MachineState;
  readonly datapaths: ReadonlyMap<string, DatapathName>;
  readonly droppedOutput: DroppedOutput;
  readonly memory: MemoryState;
  readonly balloon: Pick<MachineBalloon, 'find' | 'setTarget' | 'statistics'>;
  metrics(): Promise<MachineMetrics>;
  traceSummary(): Promise<TraceSummary | undefined>;
  inspect(filter: InspectFilter): Promise<MachineInspection>;
  start(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  stop(): Promise<void>;
  pressPowerButton(): Promise<void>;
  pressSleepButton(): Promise<void>;
  wake(): Promise<void>;
  renewGeneration(): Promise<void>;
  moveDatapath(device: string, datapath: DatapathName): Promise<void>;
  setLink(device: string, up: boolean): Promise<void>;
  resizeDisk(device: string, bytes?: number): Promise<void>;
  addDevice(device: MachineDeviceOptions): Promise<string>;
  removeDevice(device: string, options: RemovalOptions): Promise<void>;
  setCpus(count: number, options: Pick<RemovalOptions, 'timeout'>): Promise<void>;
  holdQueue(device: string, queue: string): Promise<void>;
  stepQueue(device: string, queue: string): Promise<void>;
  releaseQueue(device: string, queue: string): Promise<void>;
  reloadDevice(device: string): Promise<void>;
  setMemory(bytes: number): Promise<void>;
  resizeConsole(columns: number, rows: number): void;
}

const PREFIX = 'vm-';
const SUFFIX = '.sock';

/** Where the machine of that name listens. @throws UsageError for a name that cannot be */
export function controlSocket(name: string): string {
  if (!/^[\w.-]{1,40}$/.test(name)) {
    throw new UsageError(
      'E_NAME',
      `the machine name ${JSON.stringify(name)} is invalid`,
      'use 1 to 40 letters, digits, dots, dashes, and underscores',
    );
  }
  return join(runtimeFolder(), `${PREFIX}${name}${SUFFIX}`);
}

/** The name in a socket's file name; undefined when it is another file. */
export function nameOfSocket(file: string): string | undefined {
  if (!file.startsWith(PREFIX) || !file.endsWith(SUFFIX)) return undefined;
  return file.slice(PREFIX.length, -SUFFIX.length);
}

/** Listens from `open` until it is disposed of. It does not keep the process alive. */
export class ControlServer extends Closeable {
  readonly #server: Server;
  readonly #listening: ListenPath;
  readonly #sockets = new Set<Socket>();

  /**
   * @param name of the machine, free to choose
   * @throws UsageError when a machine of that name runs already, or the socket cannot be made
   */
  static async open(machine: ControlledMachine, name: string): Promise<ControlServer> {
    const path = controlSocket(name);
    if (isListening(path)) {
      throw new UsageError(
        'E_NAME',
        `a machine named ${name} is already running`,
        'use another --name',
      );
    }
    removeStale();
    return new ControlServer(machine, name, new ListenPath(path));
  }

  private constructor(machine: ControlledMachine, name: string, listening: ListenPath) {
    super();
    this.#listening = listening;
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.unref();
      // The client may leave before the answer.
      socket.on('error', () => {});
      void serve(socket, machine, name).then(() => this.#sockets.delete(socket));
    });
    // Out of descriptors, for example: the new client is turned away, the others continue.
    this.#server.on('error', () => {});
    this.#server.listen({ fd: listening.takeFd() });
    this.#server.unref();
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    this.#listening.close();
  }
}

/**
 * One line in, one line out, one after the other, until the connection becomes a stream: a client that does
 * not read its answers is not served further.
 */
async function serve(socket: Socket, machine: ControlledMachine, name: string): Promise<void> {
  try {
    let opened: OpenedStream | undefined;
    for await (const line of linesOf(socket, LINE_MAX)) {
      using _alive = keepAlive(socket);
      const { reply, stream } = await answer(machine, name, line);
      if (!socket.write(`${JSON.stringify(reply)}\n`)) await taken(socket);
      opened = stream;
      if (opened !== undefined) break;
    }
    if (opened !== undefined) {
      await carryStream(opened, machine, socket, () => statusOf(machine, name));
    }
  } catch {
    // The client has left, or sent something that is not a line.
  } finally {
    socket.destroy();
  }
}

/** Until the answer is there, an empty line at times says that this process is at work on it. */
function keepAlive(socket: Socket): Disposable {
  const timer = setInterval(() => {
    if (socket.writableLength === 0) socket.write('\n');
  }, KEEP_ALIVE_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Resolves when a socket has room again, or has closed. */
async function taken(socket: Socket): Promise<void> {
  if (socket.destroyed) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}

interface Answer {
  readonly reply: ControlReply;
  /** What the connection becomes. */
  readonly stream?: OpenedStream;
}

async function answer(machine: ControlledMachine, name: string, line: string): Promise<Answer> {
  try {
    const request = parseRequest(line);
    switch (request.call) {
      case 'inspect':
        return { reply: { value: await machine.inspect(request) } };
      case 'addDevice':
        return { reply: { value: await machine.addDevice(request.device) } };
      case 'metrics':
      case 'traceSummary':
        return { reply: { value: (await machine[request.call]()) ?? null } };
      case 'balloonStatistics':
        return { reply: { value: await machine.balloon.statistics() } };
      case 'open':
        return {
          stream: await openStream(machine, request),
          reply: { status: await statusOf(machine, name) },
        };
    }
    await obey(machine, request);
    return { reply: { status: await statusOf(machine, name) } };
  } catch (error) {
    return { reply: { error: encodeError(error) } };
  }
}

async function statusOf(machine: ControlledMachine, name: string): Promise<MachineStatus> {
  const { exits, kvm } = await machine.metrics();
  const { state, datapaths, droppedOutput, memory } = machine;
  const balloon = machine.balloon.find();
  return {
    pid: process.pid,
    name,
    state,
    datapaths: Object.fromEntries(datapaths),
    exits: Object.values(exits).reduce((sum, count) => sum + count, 0),
    statistics: kvm,
    droppedOutput,
    memory,
    ...(balloon === undefined ? {} : { balloon }),
  };
}

async function obey(machine: ControlledMachine, request: ControlOrder): Promise<void> {
  switch (request.call) {
    case 'status':
      return;
    case 'move':
      return await machine.moveDatapath(request.device, request.datapath);
    case 'link':
      return await machine.setLink(request.device, request.up);
    case 'resizeDisk':
      return await machine.resizeDisk(request.device, request.bytes);
    case 'setCpus':
      return await machine.setCpus(request.count, request);
    case 'removeDevice':
      return await machine.removeDevice(request.device, request);
    case 'hold':
    case 'step':
    case 'release':
      return await machine[`${request.call}Queue`](request.device, request.queue);
    case 'reload':
      return await machine.reloadDevice(request.device);
    case 'balloon':
      return await machine.balloon.setTarget(request.target);
    case 'memory':
      return await machine.setMemory(request.size);
    case 'resize':
      return machine.resizeConsole(request.columns, request.rows);
    default:
      return await machine[request.call]();
  }
}

/** Sockets of machines that were killed. */
function removeStale(): void {
  const folder = runtimeFolder();
  for (const file of readdirSync(folder)) {
    const path = join(folder, file);
    if (nameOfSocket(file) === undefined) continue;
    const isSocket = lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true;
    if (isSocket && !isListening(path)) rmSync(path, { force: true });
  }
}
