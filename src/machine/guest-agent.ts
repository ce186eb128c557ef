/** Commands in a machine's guest: a connection for as long as an agent lives, then the next. */

import { Duplex } from 'node:stream';
import { AgentBroker } from '../agent/broker.ts';
import { AgentClient, agentRestarted } from '../agent/client.ts';
import { type Deferred, defer } from '../agent/command.ts';
import { inTime } from '../host/deadline.ts';
import { type NodeVmmError, PeerError } from '../host/errors.ts';
import type { ConsolePort } from '../virtio/device/console/console-port.ts';
import type { MachineExit } from './options.ts';

/** Bytes that may wait in each direction before the writer is throttled. */
const HIGH_WATER_MARK = 64 * 1024;

/**
 * Ends when the program in the guest that opened the port closes it, or its driver is reset.
 * Destroying it leaves the underlying port as it is.
 */
export class PortConnection extends Duplex {
  readonly #port: Duplex;
  #guestGone = false;
  readonly #data = (bytes: Buffer): void => {
    if (!this.#guestGone && !this.push(bytes)) this.#port.pause();
  };
  readonly #guestOpen = (open: boolean): void => {
    if (open || this.#guestGone) return;
    this.#guestGone = true;
    this.push(null);
    this.#port.resume();
  };

  /** @param port reports through `guestOpen` when the guest opens and closes it */
  constructor(port: Duplex) {
    super({ highWaterMark: HIGH_WATER_MARK });
    this.#port = port;
    port.on('data', this.#data);
    port.on('guestOpen', this.#guestOpen);
  }

  override _read(): void {
    this.#port.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    // The guest may answer within the port's write, which must not re-enter the caller's
    // own write.
    process.nextTick(() => {
      if (this.destroyed || this.#guestGone) done();
      else this.#port.write(chunk, done);
    });
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#port.off('data', this.#data);
    this.#port.off('guestOpen', this.#guestOpen);
    this.#port.resume();
    done(error);
  }
}

/** The parts of the agent's port that are used here. */
export type AgentPort = Duplex & Pick<ConsolePort, 'guestOpen'>;

/** How long a guest may take to end after its agent: a shutdown ends its programs first. */
const END_GRACE_MS = 2000;

/** The agent behind a console port. */
export class GuestAgent {
  readonly #port: AgentPort;
  readonly #graceMs: number;
  /** Shares a connection with other processes. */
  #broker: { readonly agent: AgentClient; readonly broker: AgentBroker } | undefined;
  #client: AgentClient | undefined;
  /** Resolves with the end of the current guest. */
  #guestEnd: Deferred<NodeVmmError> = defer();

  /** @param graceMs how long to wait for the guest's own end after its agent's */
  constructor(port: AgentPort, graceMs: number = END_GRACE_MS) {
    this.#port = port;
    this.#graceMs = graceMs;
    port.on('guestOpen', (open) => {
      // The connection ends once its last bytes are read; no command may join it until then.
      if (!open) this.#client = undefined;
    });
  }

  /** The connection to the current agent, or to the next one. */
  connect(): AgentClient {
    if (this.#client === undefined || this.#client.ended) {
      const { promise } = this.#guestEnd;
      this.#client = new AgentClient(new PortConnection(this.#port), {
        whyEnded: () => this.#whyEnded(promise),
      });
    }
    return this.#client;
  }

  /**
   * Gives one more client a conversation with the agent, or with the next one, until its stream ends. It
   * learns why it ended.
   */
  async share(client: Duplex): Promise<void> {
    const agent = this.connect();
    if (this.#broker?.agent !== agent) {
      this.#broker = { agent, broker: new AgentBroker(agent, guestEnded({ reason: 'stopped' })) };
    }
    await this.#broker.broker.serve(client);
  }

  /** The guest ended or restarts, and its commands end with it. */
  guestEnded(reason: NodeVmmError): void {
    this.#guestEnd.resolve(reason);
    this.#guestEnd = defer();
    this.#client?.close(reason);
    this.#client = undefined;
  }

  /** When an agent ends, usually the guest does: the guest's end is the better reason. */
  async #whyEnded(guestEnd: Promise<NodeVmmError>): Promise<NodeVmmError> {
    let opened: (open: boolean) => void = () => {};
    const restarted = new Promise<NodeVmmError>((resolve) => {
      opened = (open) => {
        if (open) resolve(agentRestarted());
      };
      opened(this.#port.guestOpen);
      this.#port.on('guestOpen', opened);
    });
    const reason = await inTime(Promise.race([guestEnd, restarted]), this.#graceMs, agentGone);
    this.#port.off('guestOpen', opened);
    return reason;
  }
}

function agentGone(): PeerError {
  return new PeerError(
    'E_AGENT_GONE',
    'the guest agent ended, and its commands with it',
    'the next command waits for a new agent',
  );
}

/** The error of commands interrupted by the machine's end. */
export function guestEnded({ reason, detail }: MachineExit): PeerError {
  const what = {
    'power-off': 'the guest powered off',
    reboot: 'the guest rebooted',
    panic: "the guest's kernel panicked",
    watchdog: 'the watchdog ended the guest',
    'triple-fault': 'the guest ended by a triple fault',
    'internal-error': 'the machine hit a KVM error',
    stopped: 'the machine was stopped',
  }[reason];
  const [why] = detail?.split('\n') ?? [];
  return new PeerError(
    'E_GUEST_ENDED',
    `${what}${why === undefined ? '' : ` (${why})`} before the command had ended`,
  );
}
