/**
 * Lets several clients share one agent: an agent's stream carries one conversation, so this gives
 * each client the agent's side of one and maps its channels onto the shared conversation.
 */
import { constants as os } from 'node:os';
import type { Duplex } from 'node:stream';
import type { AgentClient } from './client.ts';
import {
  AGENT_VERSION,
  decodeHello,
  encodeCredit,
  encodeFrame,
  encodeHelloReply,
  encodeU32,
  FRAME_CREDIT,
  FRAME_ERROR,
  FRAME_EXEC,
  FRAME_EXIT,
  FRAME_HELLO,
  FRAME_SIGNAL,
  FRAME_STDERR,
  FRAME_STDOUT,
  type Frame,
  FrameDecoder,
  STREAM_WINDOW,
} from './protocol.ts';

interface Channel {
  readonly send: (type: number, payload: Uint8Array) => void;
  /** The client has gone: the command is killed and its output dropped. */
  orphaned: boolean;
}

/** Serves one client until its stream ends, then kills what it still runs. */
export function shareAgent(agent: AgentClient, stream: Duplex): void {
  const channels = new Map<number, Channel>();
  const decoder = new FrameDecoder();

  const open = (id: number): Channel => {
    const send = agent.open({
      receive: (frame) => {
        if (channel.orphaned) drop(channel, frame);
        else stream.write(encodeFrame(frame.type, id, frame.payload));
        const last = frame.type === FRAME_EXIT || frame.type === FRAME_ERROR;
        if (last && channels.get(id) === channel) channels.delete(id);
        return last;
      },
      fail: () => {},
    });
    const channel: Channel = { send, orphaned: false };
    channels.set(id, channel);
    return channel;
  };

  const abandon = (): void => {
    for (const channel of channels.values()) {
      channel.orphaned = true;
      channel.send(FRAME_SIGNAL, encodeU32(os.signals.SIGKILL));
      // Output that waits for the client's credit would hold up the end.
      channel.send(FRAME_CREDIT, encodeCredit(1, STREAM_WINDOW));
      channel.send(FRAME_CREDIT, encodeCredit(2, STREAM_WINDOW));
    }
    channels.clear();
  };

  const take = (frame: Frame): void => {
    if (frame.type === FRAME_HELLO) {
      const nonce = decodeHello(frame.payload);
      abandon();
      if (nonce !== undefined) stream.write(encodeHelloReply(nonce, AGENT_VERSION));
      return;
    }
    const channel = frame.type === FRAME_EXEC ? open(frame.channel) : channels.get(frame.channel);
    channel?.send(frame.type, frame.payload);
  };

  stream.on('data', (chunk: Buffer) => {
    try {
      decoder.push(chunk).forEach(take);
    } catch {
      stream.destroy();
    }
  });
  stream.on('error', () => {});
  stream.on('close', abandon);
  agent.closed.then(() => stream.destroy());
}

function drop(channel: Channel, frame: Frame): void {
  if (frame.type !== FRAME_STDOUT && frame.type !== FRAME_STDERR) return;
  const from = frame.type === FRAME_STDOUT ? 1 : 2;
  channel.send(FRAME_CREDIT, encodeCredit(from, frame.payload.length));
}
