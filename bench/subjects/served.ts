/**
 * Subjects whose disks and network interface another process serves, `nodevmm serve`: over vhost-user, or as vDPA devices
 * of the host, whose parent it is through VDUSE.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { vdpaDevice } from '../../src/backend/vdpa-devices.ts';
import { findProgram } from '../../src/guest/programs.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { Child } from './child.ts';
import { type GuestSpec, NODEVMM, type RunningGuest, type Subject } from './subject.ts';

const READY_MS = 180_000;
const POLL_MS = 20;
const VDPA_BUS = '/sys/bus/vdpa';

/** How the guest's VMM reaches the server. */
interface Link {
  /** The option of `serve`. */
  readonly option: '--socket' | '--vduse';
  /** Names what is served, and the file by which the VMM gets it. */
  name(folder: string, index: number): string;
  /** Resolves to that file once it is there. */
  ready(server: Child, name: string): Promise<string>;
  /** Of GuestSpec and DiskSpec. */
  readonly key: 'vhostUser' | 'vdpa';
}

const VHOST_USER: Link = {
  option: '--socket',
  key: 'vhostUser',
  name: (folder, index) => join(folder, String(index)),
  async ready(server, socket) {
    await server.listens(socket, READY_MS);
    return socket;
  },
};

const VDUSE: Link = {
  option: '--vduse',
  key: 'vdpa',
  name: (_, index) => `bench${process.pid}-${index}`,
  ready: (server, name) => server.during(`vDPA device ${name}`, vdpaFile(name)),
};

/** The same subject, with backends of its own behind vhost-user. @param options of the backends */
export function served<S extends Subject>(subject: S, ...options: string[]): S {
  return { ...subject, boot: (spec) => boot(subject, VHOST_USER, options, spec) };
}

/** The same subject, with vDPA devices that have parents of its own. */
export function overVdpa<S extends Subject>(subject: S): S {
  return {
    ...subject,
    lacking: () => lacksVduse() ?? subject.lacking?.(),
    boot: (spec) => boot(subject, VDUSE, [], spec),
  };
}

/** What this host lacks for vDPA devices in processes. */
export function lacksVduse(): string | undefined {
  if (findProgram('vdpa') === undefined) return 'no vdpa; apt-get install iproute2';
  if (existsSync(`${VDPA_BUS}/drivers/virtio_vdpa`)) {
    return 'virtio_vdpa takes them from vhost_vdpa; modprobe -r virtio_vdpa, as root';
  }
  const has = existsSync('/dev/vduse/control') && existsSync(`${VDPA_BUS}/drivers/vhost_vdpa`);
  return has ? undefined : 'no VDUSE; modprobe -a vduse vhost_vdpa, as root';
}

/** Distinguishes what this process has served. */
let count = 0;

async function boot(
  subject: Subject,
  { option, key, name, ready }: Link,
  options: readonly string[],
  { tap, disks, ...spec }: GuestSpec,
): Promise<RunningGuest> {
  await using opened = new AsyncCleanupStack();
  const folder = opened.use(new TemporaryFolder('nodevmm-bench-')).path;
  const servers: Child[] = [];
  const serve = async (type: string, device: readonly string[]): Promise<string> => {
    const served = name(folder, ++count);
    const text = [...device, ...options].join(',');
    const server = opened.use(
      new Child([process.execPath, NODEVMM, 'serve', type, text, option, served]),
    );
    servers.push(server);
    return await ready(server, served);
  };
  const net = tap === undefined ? {} : { [key]: await serve('net', [tap]) };
  const behind: GuestSpec['disks'] = await Promise.all(
    (disks ?? []).map(async (disk) => {
      const flags = ['ro=on', `direct=${disk.direct ? 'on' : 'off'}`];
      return { ...disk, [key]: await serve('blk', [disk.path, ...flags]) };
    }),
  );
  // Ends before they do: its shutdown sends them its last requests.
  const guest = opened.use(await subject.boot({ ...spec, ...net, disks: behind }));
  const resources = opened.move();
  return {
    pid: guest.pid,
    backends: servers.map((server) => server.process.pid ?? 0),
    exec: (argv, timeoutMs) =>
      servers.reduce(
        (done, server) => server.during('nodevmm serve', done, timeoutMs),
        guest.exec(argv, timeoutMs),
      ),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** The file that vhost_vdpa gives a vDPA device. */
export async function vdpaFile(name: string): Promise<string> {
  const late = performance.now() + READY_MS;
  while (performance.now() < late) {
    const { file } = vdpaDevice(name);
    if (file !== undefined && existsSync(file)) return file;
    await delay(POLL_MS);
  }
  throw new Error(`vhost_vdpa has no ${name} after ${READY_MS / 1000} s`);
}
