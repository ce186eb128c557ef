/** Connections to what listens in the guest, each through a process of the agent's (guests/agent/connect.c). */
import { isIPv6 } from 'node:net';
import { Duplex, type DuplexOptions } from 'node:stream';
import { EPIPE } from '../abi/errno.ts';
import { PeerError } from '../host/errors.ts';
import type { CommandSpawner, GuestProcess } from './command.ts';
import { AGENT_PROGRAM } from './command-options.ts';
import { GuestSystemError } from './guest-error.ts';
import { protocolError } from './protocol.ts';

/** What carries a connection: a process that runs `connect` of the agent. */
export type ConnectionHelper = Pick<GuestProcess, 'stdin' | 'stdout' | 'stderr' | 'exit' | 'kill'>;

/**
 * A stream connection to a socket in the guest, as net.Socket is one: emits `connect` once connected,
 * or `error`; what is written before waits. Its end is passed on in both directions. `close` comes once
 * the peer has all that was written, or after `destroy`, which drops what is on its way.
 */
export class GuestConnection extends Duplex {
  readonly #helper: ConnectionHelper;
  readonly #address: string;
  #connecting = true;
  #wanted = false;
  /** Nothing more comes from the helper; the peer said that it has ended. */
  #outputEnded = false;
  #peerEnded = false;
  #exited = false;
  /** The write under way. */
  #written: ((error?: Error | null) => void) | undefined;

  /** @param address the peer's, for errors */
  constructor(helper: ConnectionHelper, address: string, options: DuplexOptions = {}) {
    super({ allowHalfOpen: false, ...options });
    this.#helper = helper;
    this.#address = address;
    helper.stdout.on('readable', () => this.#pull());
    helper.stdout.on('end', () => {
      this.#outputEnded = true;
      this.#end();
    });
    helper.stderr.on('data', () => {
      this.#peerEnded = true;
      this.#end();
    });
    helper.exit.then(
      ({ exitCode, signal }) => this.#gone(exitCode, signal),
      (error: Error) => {
        this.#exited = true;
        this.destroy(error);
      },
    );
  }

  /** Whether the peer has yet to accept. */
  get connecting(): boolean {
    return this.#connecting;
  }

  override _read(): void {
    this.#wanted = true;
    this.#pull();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#written = done;
    if (this.#exited) this.#settle(this.#failure(EPIPE, 'write'));
    else this.#helper.stdin.write(chunk, (error) => this.#settle(error));
  }

  override _final(done: () => void): void {
    this.#helper.stdin.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const { stdin, stdout, stderr, exit } = this.#helper;
    const ended = this.readableEnded && this.writableFinished;
    if (!this.#exited && error === null && ended) {
      // The last bytes may still be on their way to the peer.
      exit.then(
        () => done(null),
        (reason: Error) => done(reason),
      );
      return;
    }
    if (!this.#exited) this.#helper.kill('SIGKILL');
    stdin.destroy();
    stdout.destroy();
    stderr.destroy();
    done(error);
  }

  #pull(): void {
    while (this.#connecting || this.#wanted) {
      const chunk = this.#helper.stdout.read() as Buffer | null;
      if (chunk === null) return;
      let bytes = chunk;
      if (this.#connecting) {
        if (chunk[0] !== 0) {
          this.destroy(protocolError('a connection'));
          return;
        }
        this.#connecting = false;
        this.emit('connect');
        bytes = chunk.subarray(1);
      }
      if (bytes.length > 0) this.#wanted = this.push(bytes);
    }
  }

  /** The end of the output alone may be that of a helper that was killed. */
  #end(): void {
    if (this.#outputEnded && (this.#peerEnded || this.#exited) && !this.destroyed) this.push(null);
  }

  #settle(error?: Error | null): void {
    const done = this.#written;
    this.#written = undefined;
    done?.(error);
  }

  #gone(status: number, signal: string | undefined): void {
    this.#exited = true;
    if (signal !== undefined) {
      this.destroy(
        new PeerError(
          'E_CONNECTION',
          `the process in the guest behind the connection to ${this.#address} was killed (${signal})`,
        ),
      );
    } else if (status !== 0 || this.#connecting) {
      const call = this.#connecting ? 'connect' : status === EPIPE ? 'write' : 'read';
      // A helper that ends well before it has connected is none of ours.
      const error = status === 0 ? protocolError('a connection') : this.#failure(status, call);
      this.destroy(error);
    } else {
      this.#settle(this.#failure(EPIPE, 'write'));
      this.#end();
    }
  }

  #failure(errno: number, call: string): GuestSystemError {
    return new GuestSystemError(errno, call, { address: this.#address });
  }
}

/**
 * Connects to a unix socket in the guest. Errors, as events: GuestSystemError, e.g. ECONNREFUSED or
 * ENOENT; PeerError when the guest or its agent ends.
 */
export function connectUnix(
  spawner: CommandSpawner,
  path: string,
  options?: DuplexOptions,
): GuestConnection {
  return open(spawner, ['unix', path], path, options);
}

/**
 * Connects to a TCP port in the guest; otherwise as `connectUnix`.
 * @param host an IPv4 or IPv6 address; default `localhost`: 127.0.0.1, else ::1
 */
export function connectTcp(
  spawner: CommandSpawner,
  port: number,
  host = 'localhost',
  options?: DuplexOptions,
): GuestConnection {
  const address = isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
  return open(spawner, ['tcp', host, `${port}`], address, options);
}

function open(
  spawner: CommandSpawner,
  target: readonly string[],
  address: string,
  options?: DuplexOptions,
): GuestConnection {
  const helper = spawner.spawn([AGENT_PROGRAM, 'connect', ...target]);
  return new GuestConnection(helper, address, options);
}
