/** From a machine that was just started to the conversation with the agent in it. */
import type { ChildProcess } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { AgentClient, type AgentClientOptions } from '../agent/client.ts';
import { PeerError } from '../host/errors.ts';

/** A booting machine. */
export interface BootingMachine {
  /** Of the emulator, for messages. */
  readonly name: string;
  readonly process: ChildProcess;
  /** The last lines of the machine's console. */
  readonly console: () => readonly string[];
  /** Connects to the agent; gives up on the signal. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly timeoutMs: number;
  readonly helloRetryMs?: number;
}

/**
 * Waits until the agent answers.
 * @throws PeerError E_LAB_GONE with the end of the console when it does not. What is running when
 *   the machine ends later ends with such an error, too.
 */
export async function awaitAgent(machine: BootingMachine): Promise<AgentClient> {
  const abort = new AbortController();
  let state = 'did not boot';
  const failed = (why: string): PeerError =>
    new PeerError(
      'E_LAB_GONE',
      `the lab ${state}: ${why}, with this on its console:\n${machine.console().join('\n')}`,
    );
  const ended = new Promise<PeerError>((resolve) => {
    machine.process.once('close', (code, signal) => {
      const how = state === 'died' ? howItWentDown(machine.console()) : undefined;
      resolve(
        how === undefined
          ? failed(`${machine.name} ended (${signal ?? `status ${code}`})`)
          : new PeerError('E_LAB_GONE', `the lab ${how} before the command had ended`),
      );
    });
    machine.process.once('error', (error) => resolve(failed(error.message)));
  });
  const late = async (): Promise<never> => {
    await delay(machine.timeoutMs, undefined, { signal: abort.signal });
    throw failed(`no answer in ${machine.timeoutMs / 1000} s`);
  };
  const up = async (): Promise<AgentClient> => {
    const { helloRetryMs } = machine;
    const options: AgentClientOptions = {
      whyEnded: () => ended,
      ...(helloRetryMs === undefined ? {} : { helloRetryMs }),
    };
    const agent = new AgentClient(await machine.connect(abort.signal), options);
    await agent.ready();
    return agent;
  };
  const gone = async (): Promise<never> => {
    throw await ended;
  };
  try {
    return await Promise.race([up(), gone(), late()]);
  } finally {
    abort.abort();
    state = 'died';
  }
}

/** Printed by a kernel that was shut down: its last lines need not be shown then. */
function howItWentDown(lines: readonly string[]): string | undefined {
  const last = lines.slice(-3).join('\n');
  if (last.includes('reboot: Power down')) return 'powered off';
  if (last.includes('reboot: Restarting system')) return 'was restarted, which ends it,';
  return undefined;
}
