/**
 * Lets several clients share one agent: an agent's stream carries one conversation, so this gives
 * each client the agent's side of one and maps its channels onto the shared conversation.
 */
import { constants as os } from 'node:os';
import type { Duplex } from 'node:stream';
import { EAGAIN } from '../abi/errno.ts';
import type { NodeVmmError } from '../host/errors.ts';
import type { AgentClient } from './client.ts';
import type { SendFrame } from './command.ts';
import * as wire from './protocol.ts';
import {
  decodeCredit,
  decodeHello,
  encodeCredit,
  encodeFrame,
  encodeHelloReply,
  encodeReason,
  encodeU32,
  type Frame,
  FrameDecoder,
  protocolError,
} from './protocol.ts';

interface Channel {
  readonly send: SendFrame;
  /** The client has gone: the command is killed and its output dropped. */
  orphaned: boolean;
  /** Bytes of each output stream that the client was sent and gave no credit for. */
  readonly uncredited: { 1: number; 2: number };
}

/** What a client may send on the channel of a command that runs. */
const TO_COMMAND: readonly number[] = [wire.FRAME_STDIN, wire.FRAME_SIGNAL, wire.FRAME_WINSIZE];

/** Shares an agent until its conversation ends; clients are sent the reason, and their streams end with it. */
export class AgentBroker {
  readonly #agent: AgentClient;
  readonly #clients = new Set<BrokerClient>();
  #ordered = false;

  /** @param stopped sent to clients instead of the reason when one of them announced a stop */
  constructor(agent: AgentClient, stopped: NodeVmmError) {
    this.#agent = agent;
    void agent.closed.then((reason) => {
      for (const client of this.#clients) client.end(this.#ordered ? stopped : reason);
    });
  }

  /** Serves one client until its stream ends, then kills what it still runs. */
  async serve(stream: Duplex): Promise<void> {
    const client = new BrokerClient(this.#agent, stream, () => {
      this.#ordered = true;
    });
    this.#clients.add(client);
    await client.serve();
    this.#clients.delete(client);
  }
}

/**
 * One client. It is not read while it takes nothing, or the agent takes nothing: what it is still
 * sent then is bounded by the windows of its commands.
 */
class BrokerClient {
  readonly #agent: AgentClient;
  readonly #stream: Duplex;
  readonly #channels = new Map<number, Channel>();
  readonly #announced: () => void;
  readonly #decoder = new FrameDecoder();
  /** Commands that have not ended, those included that were left behind. */
  #commands = 0;

  /** @param announced called when the client announces a stop */
  constructor(agent: AgentClient, stream: Duplex, announced: () => void) {
    this.#agent = agent;
    this.#stream = stream;
    this.#announced = announced;
  }

  end(reason: NodeVmmError): void {
    const stream = this.#stream;
    // A client that does not read will not read this, either.
    if (stream.writableNeedDrain) stream.destroy();
    else stream.end(encodeFrame(wire.FRAME_END, 0, encodeReason(reason)), () => stream.destroy());
  }

  async serve(): Promise<void> {
    this.#stream.on('error', () => {});
    try {
      // An agent that is not there takes no commands: until then the client gets no answer.
      await this.#agent.ready();
      for await (const chunk of this.#stream as AsyncIterable<Buffer>) {
        // Before each piece: output may have come while this one was waited for.
        await Promise.all([this.#agent.drained(), this.#drained()]);
        for (const frame of this.#decoder.push(chunk)) this.#take(frame);
      }
    } catch {
      // The stream failed, or its data is not a conversation: no one is left to notify.
    } finally {
      this.#stream.destroy();
      this.#abandon();
    }
  }

  /** @throws PeerError when it breaks the protocol: the agent must not get to see that */
  #take(frame: Frame): void {
    if (frame.type === wire.FRAME_HELLO) {
      const nonce = decodeHello(frame.payload);
      this.#abandon();
      if (nonce !== undefined) this.#stream.write(encodeHelloReply(nonce, wire.AGENT_VERSION));
    } else if (frame.type === wire.FRAME_EXEC) {
      this.#execute(frame);
    } else if (frame.type === wire.FRAME_STOP) {
      this.#announced();
    } else if (frame.type === wire.FRAME_CREDIT) {
      const channel = this.#channels.get(frame.channel);
      if (channel !== undefined) passCredit(channel, frame.payload);
    } else if (TO_COMMAND.includes(frame.type)) {
      this.#channels.get(frame.channel)?.send(frame.type, frame.payload);
    } else {
      throw protocolError(`a frame of type ${frame.type}`);
    }
  }

  #execute({ channel: id, payload }: Frame): void {
    if (this.#channels.has(id)) throw protocolError('EXEC on a channel in use');
    if (this.#commands >= wire.COMMANDS_MAX) {
      const error = Buffer.concat([encodeU32(EAGAIN), Buffer.from('too many commands')]);
      this.#stream.write(encodeFrame(wire.FRAME_ERROR, id, error));
      return;
    }
    const send = this.#agent.open({
      receive: (frame) => {
        if (channel.orphaned) drop(channel, frame);
        else this.#forward(channel, id, frame);
        const last = frame.type === wire.FRAME_EXIT || frame.type === wire.FRAME_ERROR;
        if (last) this.#commands -= 1;
        if (last && this.#channels.get(id) === channel) this.#channels.delete(id);
        return last;
      },
      drained: () => {},
      fail: () => {},
    });
    const channel: Channel = { send, orphaned: false, uncredited: { 1: 0, 2: 0 } };
    this.#channels.set(id, channel);
    this.#commands += 1;
    send(wire.FRAME_EXEC, payload);
  }

  #forward(channel: Channel, id: number, { type, payload }: Frame): void {
    const stream = outputStream(type);
    if (stream !== undefined) channel.uncredited[stream] += payload.length;
    this.#stream.write(encodeFrame(type, id, payload));
  }

  #abandon(): void {
    for (const channel of this.#channels.values()) {
      channel.orphaned = true;
      channel.send(wire.FRAME_SIGNAL, encodeU32(os.signals.SIGKILL));
      // Output that waits for the client's credit would hold up the end.
      channel.send(wire.FRAME_CREDIT, encodeCredit(1, wire.STREAM_WINDOW));
      channel.send(wire.FRAME_CREDIT, encodeCredit(2, wire.STREAM_WINDOW));
    }
    this.#channels.clear();
  }

  /** Resolves when the client has taken what it was sent, or has gone. */
  async #drained(): Promise<void> {
    const stream = this.#stream;
    if (!stream.writableNeedDrain || stream.destroyed) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        stream.off('drain', done).off('close', done);
        resolve();
      };
      stream.on('drain', done).on('close', done);
    });
  }
}

/** The output stream whose bytes such a frame carries. */
function outputStream(type: number): 1 | 2 | undefined {
  if (type === wire.FRAME_STDOUT) return 1;
  return type === wire.FRAME_STDERR ? 2 : undefined;
}

/**
 * Passes credit on for bytes that the client was sent: credit in advance would let the agent send a
 * window for each, and all of it would wait for a client that takes nothing.
 */
function passCredit({ send, uncredited }: Channel, payload: Uint8Array): void {
  const { stream, bytes } = decodeCredit(payload);
  if (stream === 0) throw protocolError("credit for a command's input");
  const passed = Math.min(bytes, uncredited[stream]);
  if (passed === 0) return;
  uncredited[stream] -= passed;
  send(wire.FRAME_CREDIT, encodeCredit(stream, passed));
}

function drop({ send }: Channel, { type, payload }: Frame): void {
  const stream = outputStream(type);
  if (stream !== undefined) send(wire.FRAME_CREDIT, encodeCredit(stream, payload.length));
}
