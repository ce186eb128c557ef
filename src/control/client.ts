/** Asks machines that run in other processes of this user. */
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { NodeVmmError, PeerError, UsageError } from '../host/errors.ts';
import { runtimeFolder } from '../host/private-folder.ts';
import { printable } from '../host/untrusted-text.ts';
import type { InspectFilter, MachineInspection } from '../machine/inspect.ts';
import type { ControlOrder, ControlReply, ControlRequest, MachineStatus } from './protocol.ts';
import { controlSocket, nameOfSocket } from './server.ts';

/** A machine that was killed leaves its socket; one that hangs leaves the question. */
const ANSWER_MS = 30_000;
const SHUTDOWN_POLL_MS = 200;
/** Characters of the longest answer: the rings of many large queues. */
const ANSWER_MAX = 2 ** 26;

/**
 * Asks one machine.
 * @returns how it is afterwards
 * @throws UsageError when no machine of that name runs; the machine's error when it refuses
 */
export async function ask(name: string, request: ControlOrder): Promise<MachineStatus> {
  const reply = await exchange(controlSocket(name), name, request);
  if ('status' in reply) return reply.status;
  throw refusal(name, reply);
}

/**
 * Presses the power button of one machine and waits until it has ended.
 * @param patienceMs how long its guest may take
 * @throws PeerError when it did not end; else as `ask`
 */
export async function shutDown(name: string, patienceMs: number): Promise<void> {
  await ask(name, { call: 'pressPowerButton' });
  const deadline = Date.now() + patienceMs;
  while (await isAlive(name)) {
    if (Date.now() >= deadline) {
      throw new PeerError(
        'E_SHUTDOWN',
        `the guest of ${name} did not power off within ${patienceMs / 1000} s of the power button; "nodevmm vm stop" cuts its power`,
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
  const reply = await exchange(controlSocket(name), name, { call: 'inspect', ...filter });
  if ('inspection' in reply) return reply.inspection;
  throw refusal(name, reply);
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
    throw new UsageError('E_NAME', 'no machine is running; start one with "nodevmm run"');
  }
  if (others.length === 0) return first.name;
  const names = [first, ...others].map(({ name }) => name).join(', ');
  throw new UsageError('E_NAME', `several machines are running; select one with --vm: ${names}`);
}

function refusal(name: string, reply: ControlReply): Error {
  if ('error' in reply)
    return new NodeVmmError(reply.error.code, `${name}: ${reply.error.message}`);
  return new PeerError('E_CONTROL', `${name} does not answer in this version's protocol`);
}

/** A machine's text ends up in a terminal. */
function shown(_key: string, value: unknown): unknown {
  return typeof value === 'string' ? printable(value) : value;
}

function exchange(path: string, name: string, request: ControlRequest): Promise<ControlReply> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(path, () => socket.write(`${JSON.stringify(request)}\n`));
    socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('no answer')));
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      const end = chunk.indexOf('\n');
      text += end < 0 ? chunk : chunk.slice(0, end);
      if (text.length > ANSWER_MAX) socket.destroy(new Error('its answer is too long'));
      if (end < 0) return;
      socket.destroy();
      try {
        resolve(JSON.parse(text, shown) as ControlReply);
      } catch {
        reject(new PeerError('E_CONTROL', `${name} does not answer in this version's protocol`));
      }
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const gone = error.code === 'ENOENT' || error.code === 'ECONNREFUSED';
      reject(
        gone
          ? new UsageError('E_NAME', `no machine named ${name} is running; see "nodevmm vm list"`)
          : new PeerError('E_CONTROL', `${name} does not answer: ${error.message}`),
      );
    });
    socket.on('close', () => reject(new PeerError('E_CONTROL', `${name} ended meanwhile`)));
  });
}
