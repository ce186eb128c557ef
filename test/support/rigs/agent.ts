/** The real agent as a process of this host, over a socket instead of a virtio-console port. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Duplex } from 'node:stream';
import { agentBinary } from '../../../src/guest/executables.ts';

/** An agent and the stream to it. Ending the stream ends the agent. */
export interface AgentRig {
  readonly stream: Duplex;
  readonly ended: Promise<unknown>;
}

export async function startAgent(): Promise<AgentRig> {
  const agent = spawn(agentBinary, ['3'], {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
  });
  return { stream: agent.stdio[3] as Duplex, ended: once(agent, 'exit') };
}

/** A second handle on a stream: what ends it leaves the stream open. */
export function handleOn(stream: Duplex): Duplex {
  const handle = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      stream.write(chunk, done);
    },
  });
  stream.on('data', (chunk: Buffer) => handle.push(chunk));
  return handle;
}
