/** Connections to vsock ports of the guest, through the machine's own socket device. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { ECONNREFUSED } from '../abi/errno.ts';
import { type CommandExit, defer } from '../agent/command.ts';
import { type ConnectionHelper, GuestConnection } from '../agent/guest-connection.ts';
import { GuestSystemError } from '../agent/guest-error.ts';
import { agentBinary } from '../guest/executables.ts';
import { UsageError } from '../host/errors.ts';
import type { VsockOptions } from '../virtio/device/vsock/vsock-type.ts';
import type { DatapathName } from './devices/queue-service.ts';

/** The longest answer of the device: `OK`, and a port. */
const ANSWER_MAX = 32;
const PORT_MAX = 0xffff_ffff;

/**
 * Connects to a port of the guest; emits `connect`, or `error` with ECONNREFUSED when nothing listens.
 * @param device undefined: the machine has none
 * @param datapath who serves the device
 * @throws UsageError without a device, or for a port that is none
 */
export function connectVsock(
  device: VsockOptions | undefined,
  datapath: DatapathName | undefined,
  port: number,
): Duplex {
  if (device === undefined) {
    throw new UsageError(
      'E_VSOCK',
      'this machine has no socket device',
      "create it with one: vsock: { cid: 3, path: 'vm.sock' }",
    );
  }
  if (!Number.isInteger(port) || port < 0 || port > PORT_MAX) {
    throw new UsageError('E_VSOCK', `a vsock port must be 0 to ${PORT_MAX}, not ${port}`);
  }
  const { cid, path } = device;
  const address = `vsock:${cid}:${port}`;
  if (path !== undefined && datapath !== 'vhost') return new VsockConnection(path, port, address);
  // Node has no AF_VSOCK; the agent's executable is a static program that does.
  const child = spawn(agentBinary, ['connect', 'vsock', `${cid}`, `${port}`]);
  return new GuestConnection(helperOf(child), address);
}

/** A process of this host as one that carries a connection. */
function helperOf(child: ChildProcessWithoutNullStreams): ConnectionHelper {
  const { stdin, stdout, stderr } = child;
  const exit = defer<CommandExit>();
  stdin.on('error', () => {});
  child.on('error', exit.reject);
  child.on('close', (code, signal) => {
    exit.resolve(signal === null ? { exitCode: code ?? 0 } : { exitCode: 128, signal });
  });
  return { stdin, stdout, stderr, exit: exit.promise, kill: (signal) => void child.kill(signal) };
}

/** A connection through the device's unix socket: `CONNECT PORT`, `OK`, then the bytes of both sides. */
class VsockConnection extends Duplex {
  readonly #socket: Socket;
  readonly #address: string;
  /** The answer so far; undefined once it is complete. */
  #answer: Buffer | undefined = Buffer.alloc(0);
  #wanted = false;

  constructor(path: string, port: number, address: string) {
    super({ allowHalfOpen: false });
    this.#address = address;
    this.#socket = connect({ path, allowHalfOpen: true });
    this.#socket.write(`CONNECT ${port}\n`);
    this.#socket.on('readable', () => this.#pull());
    this.#socket.on('end', () => {
      if (this.#answer === undefined) this.push(null);
      else this.#refused();
    });
    this.#socket.on('error', (error) => {
      if (this.#answer === undefined) this.destroy(error);
      else this.#refused();
    });
    this.#socket.on('close', () => {
      if (this.#answer !== undefined) this.#refused();
    });
  }

  /** Whether the guest has yet to accept. */
  get connecting(): boolean {
    return this.#answer !== undefined;
  }

  override _read(): void {
    this.#wanted = true;
    this.#pull();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: () => void): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  #pull(): void {
    while (this.#answer !== undefined || this.#wanted) {
      const chunk = this.#socket.read() as Buffer | null;
      if (chunk === null) return;
      const bytes = this.#answer === undefined ? chunk : this.#hear(this.#answer, chunk);
      if (bytes.length > 0) this.#wanted = this.push(bytes);
    }
  }

  /** @returns what follows the answer */
  #hear(answer: Buffer, chunk: Buffer): Buffer {
    const bytes = Buffer.concat([answer, chunk]);
    const end = bytes.indexOf('\n');
    if (end < 0) {
      this.#answer = bytes;
      if (bytes.length > ANSWER_MAX) this.#refused();
      return Buffer.alloc(0);
    }
    this.#answer = undefined;
    this.emit('connect');
    return bytes.subarray(end + 1);
  }

  #refused(): void {
    this.destroy(new GuestSystemError(ECONNREFUSED, 'connect', { address: this.#address }));
  }
}
