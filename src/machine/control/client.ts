/** Asks machines that run in other processes of this user. */
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { inTime } from '../../host/deadline.ts';
import { NodeVmmError, PeerError, UsageError } from '../../host/errors.ts';
import { runtimeFolder } from '../../host/private-folder.ts';
import { printable } from '../../host/untrusted-text.ts';
import { given } from '../../options/option-schema.ts';
import type { InspectFilter, MachineInspection } from '../inspect.ts';
import { decodeError } from './control-error.ts';
import {
  type ControlOrder,
  type ControlQuestion,
  type ControlReply,
  type ControlRequest,
  type ControlStream,
  linesOf,
  type MachineStatus,
  SILENCE_MS,
} from './protocol.ts';
import { controlSocket, nameOfSocket } from './server.ts';

const SHUTDOWN_POLL_MS = 200;
/** Bytes of the longest answer: the rings of many large queues. */
const ANSWER_MAX = 2 ** 26;

/**
 * Asks one machine.
 * @returns how it is afterwards
 * @throws UsageError when no machine of that name runs; the machine's error when it refuses
 */
export async function ask(name: string, request: ControlOrder): Promise<MachineStatus> {
  return await order(socketOf(name), request);
}

/**
 * Presses the power button of one machine and waits until it has ended.
 * @param patienceMs how long its guest may take
 * @throws PeerError when it did not end; else as `ask`
 */
export async function shutDown(name: string, patienceMs: number): Promise<void> {
  const { state } = await ask(name, { call: 'status' });
  if (state === 'suspended') {
    throw new UsageError('E_STATE', `the guest of ${name} sleeps`, 'use "nodevmm vm wake" first');
  }
  await ask(name, { call: 'pressPowerButton' });
  const deadline = Date.now() + patienceMs;
  while (await isAlive(name)) {
    if (Date.now() >= deadline) {
      throw new PeerError(
        'E_SHUTDOWN',
        `the guest of ${name} did not power off within ${patienceMs / 1000} s of the power button`,
        '"nodevmm vm stop" cuts its power',
      );
    }
    await new Promise((resolve) => setTimeout(resolve, SHUTDOWN_POLL_MS));
  }
}

/** Whether a machine runs: one that ended may still answer, or close the socket on us. */
async function isAlive(name: string): Promise<boolean> {
  try {
    return (await ask(name, { call: 'status' })).state !== 'ended';
  } catch (error) {
    if (error instanceof NodeVmmError) return false;
    throw error;
  }
}

/** Looks into the devices of one machine. @throws as `ask` */
export async function askInspection(
  name: string,
  filter: InspectFilter,
): Promise<MachineInspection> {
  return (await question(socketOf(name), { call: 'inspect', ...filter })) as MachineInspection;
}

/** The machines that run and answer, by name. */
export async function listMachines(): Promise<MachineStatus[]> {
  const names = readdirSync(runtimeFolder()).flatMap((file) => nameOfSocket(file) ?? []);
  const answers = names.sort().map((name) => ask(name, { call: 'status' }).catch(() => undefined));
  return (await Promise.all(answers)).filter((status) => status !== undefined);
}

/** The name of the only running machine. @throws UsageError when there is none, or several */
export async function onlyMachine(): Promise<string> {
  const [first, ...others] = await listMachines();
  if (first === undefined) {
    throw new UsageError('E_NAME', 'no machine is running', 'start one with "nodevmm run"');
  }
  if (others.length === 0) return first.name;
  const names = [first, ...others].map(({ name }) => name).join(', ');
  throw new UsageError('E_NAME', `several machines are running`, `select one with --vm: ${names}`);
}

/** How a machine is reached: each connection carries requests, or a stream. */
export interface ControlAddress {
  readonly name: string;
  /** @returns a stream that may still be connecting */
  connect(): Duplex;
}

/** A machine in another process of this user. @throws UsageError for a name that cannot be */
export function socketOf(name: string): ControlAddress {
  const path = controlSocket(name);
  return { name, connect: () => connect(path) };
}

/** @returns how the machine is afterwards. @throws as `ask` */
export async function order(to: ControlAddress, request: ControlOrder): Promise<MachineStatus> {
  const reply = await exchange(to, request);
  if ('status' in reply) return reply.status;
  throw otherVersion(to.name);
}

/** @returns the answer. @throws as `ask` */
export async function question(to: ControlAddress, request: ControlQuestion): Promise<unknown> {
  const reply = await exchange(to, request);
  if ('value' in reply) return reply.value;
  throw otherVersion(to.name);
}

async function exchange(to: ControlAddress, request: ControlRequest): Promise<ControlReply> {
  const { connection, reply } = await begin(to, request);
  connection.destroy();
  return reply;
}

/** Makes a connection a stream. @returns it, and how the machine is. @throws as `ask` */
export async function openStream(
  to: ControlAddress,
  stream: ControlStream,
  port?: number,
): Promise<{ readonly connection: Duplex; readonly status: MachineStatus }> {
  const { connection, reply } = await begin(to, given({ call: 'open', stream, port }));
  if ('status' in reply) return { connection, status: reply.status };
  connection.destroy();
  throw otherVersion(to.name);
}

/** Sends a request, and reads the line that answers it. @throws the machine's error when it refuses */
async function begin(
  to: ControlAddress,
  request: ControlRequest,
): Promise<{ readonly connection: Duplex; readonly reply: ControlReply }> {
  const connection = to.connect();
  const late = (): never => {
    throw new Error('no answer');
  };
  try {
    connection.write(`${JSON.stringify(request)}\n`);
    const lines = linesOf(connection, ANSWER_MAX);
    let line: string | undefined;
    do {
      const { value } = await inTime(lines.next(), SILENCE_MS, late);
      line = value ?? undefined;
    } while (line === '');
    await lines.return();
    if (line === undefined) throw new PeerError('E_CONTROL', `${to.name} ended meanwhile`);
    const reply = parseReply(to.name, line);
    if ('error' in reply) throw decodeError(reply.error, to.name);
    return { connection, reply };
  } catch (error) {
    connection.destroy();
    throw error instanceof NodeVmmError ? error : unreachable(to.name, error);
  }
}

function parseReply(name: string, line: string): ControlReply {
  try {
    return JSON.parse(line, shown) as ControlReply;
  } catch {
    throw otherVersion(name);
  }
}

/** A machine's text ends up in a terminal. */
export function shown(_key: string, value: unknown): unknown {
  return typeof value === 'string' ? printable(value) : value;
}

function unreachable(name: string, error: unknown): NodeVmmError {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ECONNREFUSED'
    ? new UsageError('E_NAME', `no machine named ${name} is running`, 'see "nodevmm vm list"')
    : new PeerError('E_CONTROL', `${name} does not answer: ${message}`);
}

function otherVersion(name: string): PeerError {
  return new PeerError('E_CONTROL', `${name} does not answer in this version's protocol`);
}
