/** A subject whose network interface another process serves, over vhost-user: `nodevmm serve net`. */
import { join } from 'node:path';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { Child } from './child.ts';
import { NODEVMM } from './nodevmm-program.ts';
import { type GuestSpec, INTERFACE, type RunningGuest, run, type Subject } from './subject.ts';

const LISTENING_MS = 60_000;

/** How a backend learns of new work: by kicks, by polling always, or by polling briefly before it sleeps. */
export type Polling = 'never' | 'always' | 'adaptive';

const FLAGS: Readonly<Record<Polling, readonly string[]>> = {
  never: ['--no-poll'],
  always: ['--poll'],
  adaptive: [],
};

/** The backend's command line. */
export function serveCommand(tap: string, polling: Polling, socket: string): string[] {
  const serve = ['serve', 'net', tap, '--socket', socket, ...FLAGS[polling]];
  return [process.execPath, NODEVMM, ...serve];
}

/** The same subject, with its own backend between its network interface and the tap. */
export function served<S extends Subject>(subject: S, polling: Polling): S {
  return { ...subject, boot: (spec) => bootServed(subject, polling, spec) };
}

async function bootServed(
  subject: Subject,
  polling: Polling,
  { tap, ...spec }: GuestSpec,
): Promise<RunningGuest> {
  if (tap === undefined) return await subject.boot(spec);
  const folder = new TemporaryFolder('nodevmm-bench-');
  const socket = join(folder.path, 'net');
  const backend = new Child(serveCommand(tap, polling, socket));
  const end = async (): Promise<void> => {
    await backend[Symbol.asyncDispose]();
    folder.close();
  };
  try {
    await backend.makes(socket, LISTENING_MS);
    const guest = await subject.boot({ ...spec, vhostUser: socket });
    const exec: RunningGuest['exec'] = (argv, timeoutMs) =>
      backend.during('nodevmm serve', guest.exec(argv, timeoutMs), timeoutMs);
    const rest = async (resting: boolean): Promise<void> => {
      // The driver logs packets that are not sent.
      const setLink = (state: 'up' | 'down') =>
        run({ exec }, ['ip', 'link', 'set', INTERFACE, state]);
      if (resting) await setLink('down');
      backend.pause(resting);
      if (!resting) await setLink('up');
    };
    return {
      pid: guest.pid,
      backends: [backend.process.pid ?? 0],
      exec,
      // The others sleep when they are idle.
      ...(polling === 'always' ? { rest } : {}),
      async [Symbol.asyncDispose]() {
        // Shutdown sends the frontend's last requests to it.
        backend.pause(false);
        await guest[Symbol.asyncDispose]();
        await end();
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}
