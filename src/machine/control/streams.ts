/** What a control connection can become: a copy of a console, events, a conversation with the agent. */
import { once } from 'node:events';
import { type Duplex, Readable } from 'node:stream';
import { UNREAD_MAX, UnreadOutput } from '../../virtio/device/console/unread-output.ts';
import type { VirtualMachineEvents } from '../machine.ts';
import type { ControlEvent, ControlOpen, ControlStream, MachineStatus } from './protocol.ts';

/** What the streams of a machine need of it. */
export interface StreamedMachine {
  readonly console: Duplex;
  readonly serial: Duplex;
  /** Calls back with all output of a console from now on. @returns ends that */
  watchOutput(console: 'console' | 'serial', see: (bytes: Uint8Array) => void): () => void;
  /** As `Machine.connect`. */
  connect(port: number): Duplex;
  /** Gives one more client a conversation with the agent, until its stream ends. */
  shareAgent(client: Duplex): Promise<void>;
  on<Name extends keyof VirtualMachineEvents>(
    event: Name,
    listener: (...values: VirtualMachineEvents[Name]) => void,
  ): unknown;
  off<Name extends keyof VirtualMachineEvents>(
    event: Name,
    listener: (...values: VirtualMachineEvents[Name]) => void,
  ): unknown;
}

const EVENTS: readonly (keyof VirtualMachineEvents)[] = [
  'exit',
  'log',
  'reboot',
  'breach',
  'state',
];

/** A stream, and its other end where that is one of the guest's connections. */
export interface OpenedStream {
  readonly name: ControlStream;
  readonly guest?: Duplex;
}

/** @throws UsageError when there is no such port, or nothing listens on it */
export async function openStream(
  machine: StreamedMachine,
  { stream: name, port = -1 }: ControlOpen,
): Promise<OpenedStream> {
  if (name !== 'vsock') return { name };
  const guest = machine.connect(port);
  await once(guest, 'connect');
  return { name, guest };
}

/** Carries a stream until the client leaves, or is too slow for events. */
export async function carryStream(
  { name, guest }: OpenedStream,
  machine: StreamedMachine,
  client: Duplex,
  status: () => Promise<MachineStatus>,
): Promise<void> {
  if (guest !== undefined) await carryConnection(guest, client);
  else if (name === 'agent') await machine.shareAgent(client);
  else if (name === 'events') await carryEvents(machine, client, status);
  else if (name !== 'vsock') await carryConsole(machine, name, client);
}

/** Until one of them ends. */
async function carryConnection(guest: Duplex, client: Duplex): Promise<void> {
  guest.on('error', () => client.destroy());
  client.on('close', () => guest.destroy());
  client.pipe(guest).pipe(client);
  await closed(client);
}

/** A console's output from now on: what its reader leaves unread is dropped as the console's own is. */
class OutputCopy extends Readable {
  readonly #unread = new UnreadOutput(this, () => {});

  add(bytes: Uint8Array): void {
    this.#unread.add(Buffer.from(bytes));
  }

  override _read(): void {
    this.#unread.flow();
  }
}

async function carryConsole(
  machine: StreamedMachine,
  name: 'console' | 'serial',
  client: Duplex,
): Promise<void> {
  const copy = new OutputCopy();
  const end = machine.watchOutput(name, (bytes) => copy.add(bytes));
  copy.pipe(client);
  client.pipe(machine[name], { end: false });
  await closed(client);
  end();
  copy.destroy();
}

async function carryEvents(
  machine: StreamedMachine,
  client: Duplex,
  status: () => Promise<MachineStatus>,
): Promise<void> {
  let sent = Promise.resolve();
  const send = async (event: ControlEvent['event'], values: unknown[]): Promise<void> => {
    const line = { event, values, status: await status() };
    if (client.destroyed) return;
    client.write(`${JSON.stringify(line)}\n`);
    // It does not read: it learns from the connection's end that it missed something.
    if (client.writableLength > UNREAD_MAX) client.destroy();
  };
  const listeners = EVENTS.map((event) => {
    const listener = (...values: unknown[]): void => {
      sent = sent.then(() => send(event, values));
    };
    machine.on(event, listener);
    return () => machine.off(event, listener);
  });
  client.resume();
  await closed(client);
  for (const remove of listeners) remove();
}

async function closed(client: Duplex): Promise<void> {
  if (!client.closed) await once(client, 'close').catch(() => {});
}
