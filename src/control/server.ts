/** A running machine's control socket, which only its user can reach. */

import { lstatSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { Closeable } from '../host/cleanup-stack.ts';
import { messageOf, NodeVmmError, UsageError } from '../host/errors.ts';
import { isListening, ListenPath } from '../host/listen-path.ts';
import { runtimeFolder } from '../host/private-folder.ts';
import type { DatapathName } from '../machine/devices/queue-service.ts';
import type { InspectFilter, MachineInspection } from '../machine/inspect.ts';
import {
  type ControlOrder,
  type ControlReply,
  LINE_MAX,
  linesOf,
  parseRequest,
} from './protocol.ts';

/** What a machine answers to. */
export interface ControlledMachine {
  readonly state: string;
  readonly datapaths: ReadonlyMap<string, DatapathName>;
  exitCounts(): number[];
  statistics(): ReadonlyMap<string, number>;
  moveDatapath(device: string, datapath: DatapathName): Promise<void>;
  setLink(device: string, up: boolean): void;
  holdQueue(device: string, queue: string): Promise<void>;
  stepQueue(device: string, queue: string): Promise<void>;
  releaseQueue(device: string, queue: string): Promise<void>;
  inspect(filter: InspectFilter): Promise<MachineInspection>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  stop(): Promise<void>;
  pressPowerButton(): void;
}

const PREFIX = 'vm-';
const SUFFIX = '.sock';

/** Where the machine of that name listens. @throws UsageError for a name that cannot be */
export function controlSocket(name: string): string {
  if (!/^[\w.-]{1,40}$/.test(name)) {
    throw new UsageError(
      'E_NAME',
      `the machine name ${JSON.stringify(name)} is invalid; use 1 to 40 letters, digits, dots, dashes, and underscores`,
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
        `a machine named ${name} is already running; use another --name`,
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
 * One line in, one line out, one after the other: a client that does not read its answers is not served
 * further.
 */
async function serve(socket: Socket, machine: ControlledMachine, name: string): Promise<void> {
  try {
    for await (const line of linesOf(socket, LINE_MAX)) {
      const reply = await answer(machine, name, line);
      if (!socket.write(`${JSON.stringify(reply)}\n`)) await taken(socket);
    }
  } catch {
    // The client has left, or sent something that is not a line.
  } finally {
    socket.destroy();
  }
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

async function answer(
  machine: ControlledMachine,
  name: string,
  line: string,
): Promise<ControlReply> {
  try {
    const request = parseRequest(line);
    if (request.call === 'inspect') return { inspection: await machine.inspect(request) };
    await obey(machine, request);
    const datapaths = Object.fromEntries(machine.datapaths);
    const exits = machine.exitCounts().reduce((sum, count) => sum + count, 0);
    const statistics = Object.fromEntries(machine.statistics());
    const { state } = machine;
    return { status: { pid: process.pid, name, state, datapaths, exits, statistics } };
  } catch (error) {
    const code = error instanceof NodeVmmError ? error.code : 'E_INTERNAL';
    return { error: { code, message: messageOf(error) } };
  }
}

async function obey(machine: ControlledMachine, request: ControlOrder): Promise<void> {
  switch (request.call) {
    case 'status':
      return;
    case 'move':
      return await machine.moveDatapath(request.device, request.datapath);
    case 'link':
      return machine.setLink(request.device, request.up);
    case 'hold':
    case 'step':
    case 'release':
      return await machine[`${request.call}Queue`](request.device, request.queue);
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
