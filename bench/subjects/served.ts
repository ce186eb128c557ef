/** A subject whose network interface another process serves, over vhost-user: `nodevmm serve net`. */
import { join } from 'node:path';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { Child } from './child.ts';
import { type GuestSpec, NODEVMM, type RunningGuest, type Subject } from './subject.ts';

const LISTENING_MS = 60_000;

/** The same subject, with its own backend between its network interface and the tap. @param flags of the backend */
export function served<S extends Subject>(subject: S, ...flags: string[]): S {
  return { ...subject, boot: (spec) => bootServed(subject, flags, spec) };
}

async function bootServed(
  subject: Subject,
  flags: readonly string[],
  { tap, ...spec }: GuestSpec,
): Promise<RunningGuest> {
  if (tap === undefined) return await subject.boot(spec);
  await using opened = new AsyncCleanupStack();
  const socket = join(opened.use(new TemporaryFolder('nodevmm-bench-')).path, 'net');
  const command = [process.execPath, NODEVMM, 'serve', 'net', tap, '--socket', socket, ...flags];
  const backend = opened.use(new Child(command));
  await backend.listens(socket, LISTENING_MS);
  // Ends before the backend does: shutdown sends its last requests to it.
  const guest = opened.use(await subject.boot({ ...spec, vhostUser: socket }));
  const resources = opened.move();
  return {
    pid: guest.pid,
    backends: [backend.process.pid ?? 0],
    exec: (argv, timeoutMs) =>
      backend.during('nodevmm serve', guest.exec(argv, timeoutMs), timeoutMs),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
