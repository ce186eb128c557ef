/** The processes on the host that make up a lab, and what each of them is handed. */
import type { ChildProcess } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { basename, join, resolve } from 'node:path';
import { cacheFolder, makeFolder } from '../guest/cache.ts';
import { requirePrograms } from '../guest/executables.ts';
import type { Guest } from '../guest/guests.ts';
import { findProgram } from '../guest/programs.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { ListenPath } from '../host/listen-path.ts';
import { projectFolder } from '../host/package-folder.ts';
import * as sys from '../host/syscall.ts';
import { UnixSocket } from '../host/unix-socket.ts';
import { type Children, FIRST_FD } from './children.ts';
import { type MachineShape, qemuCommand, type Share, virtiofsdCommand } from './qemu-command.ts';
import { type MountTools, mountedCommand, parseMounts } from './share-mounts.ts';

/** User IDs without accounts, by systemd's allocation. */
const FIRST_UID = 60_706;
const UIDS = 478;

/** The host's programs that make up a lab. */
export interface Programs extends MountTools {
  readonly qemu: string;
  readonly virtiofsd: string;
}

/**
 * Finds them, and installs those that are missing when it may.
 * @throws UsageError
 */
export async function findPrograms(): Promise<Programs> {
  if (process.getuid?.() !== 0) {
    // Limit: QEMU's virtiofsd serves others' files to root only, also inside a user namespace.
    throw new UsageError(
      'E_LAB',
      'the lab shares all files of the host, which needs root',
      'use sudo',
    );
  }
  const found = await requirePrograms({
    'qemu-system-x86_64': 'qemu-system-x86',
    setpriv: 'util-linux',
    unshare: 'util-linux',
    mount: 'mount',
  });
  const of = (name: string): string => found.get(name) as string;
  const tools = { qemu: of('qemu-system-x86_64'), unshare: of('unshare'), mount: of('mount') };
  const virtiofsd = findProgram('virtiofsd');
  if (virtiofsd !== undefined) return { ...tools, virtiofsd };
  throw new UsageError(
    'E_PACKAGE',
    'virtiofsd not found on this host',
    'apt-get install qemu-system-common (Debian 12) or virtiofsd',
  );
}

/** @param more folders that the lab may write to besides its own. @throws UsageError */
export function sharesOf(more: readonly string[]): Share[] {
  makeFolder(cacheFolder());
  const folders = [projectFolder(), cacheFolder(), ...more].map((path) => resolve(path));
  const writable = [...new Set(folders)];
  const missing = writable.find((path) => !isFolder(path));
  if (missing !== undefined) {
    throw new UsageError('E_LAB', `no folder ${missing} to share`, 'create it first');
  }
  return [
    { tag: 'root', path: '/', readOnly: true, still: true },
    ...writable.map((path, i) => ({ tag: `share${i}`, path, readOnly: false, still: false })),
  ];
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** The machine, its file servers, and the agent's stream. */
export interface StartedMachine {
  readonly machine: ChildProcess;
  readonly servers: readonly ChildProcess[];
  readonly agent: Socket;
}

/**
 * Starts them. QEMU has nothing of this user's but what it is handed: a process that escapes the
 * machine is nobody.
 */
export function startMachine(
  children: Children,
  tools: Programs,
  guest: Guest,
  shape: MachineShape,
  shares: readonly Share[],
): StartedMachine {
  const mounts = parseMounts(readFileSync('/proc/self/mountinfo', 'latin1'));
  const handed: Fd[] = [];
  const hand = <T extends Fd>(fd: T): T => {
    handed.push(fd);
    return fd;
  };
  try {
    for (const file of [guest.kernel, guest.initrd]) {
      hand(Fd.open(readableByAll(file, children.folder), sys.O_RDONLY));
    }
    const [ours, theirs] = UnixSocket.pair();
    const agent = new Socket({ fd: ours.release(), readable: true, writable: true });
    hand(theirs);
    const servers = shares.map((share) => {
      const at = join(children.folder, share.tag);
      mkdirSync(at, { mode: 0o700 });
      using listening = new ListenPath(`${at}.sock`);
      hand(UnixSocket.connect(listening.path));
      const serve = virtiofsdCommand(tools.virtiofsd, share, join(at, 'share'), FIRST_FD);
      return children.start(mountedCommand(tools, share, at, mounts, serve), {
        fds: [listening.fd],
      });
    });
    const fds = handed.map((_, index) => FIRST_FD + index);
    const [kernel, initrd, stream, ...sockets] = fds as [number, number, number, ...number[]];
    const command = qemuCommand(tools.qemu, shape, shares, {
      ...{ kernel, initrd, agent: stream },
      shares: sockets,
    });
    const inherited = handed.map(({ fd }) => fd);
    return { machine: children.start(command, { fds: inherited, uid: labUid() }), servers, agent };
  } finally {
    for (const fd of handed) fd.close();
  }
}

/**
 * A user ID that no account has (systemd's UIDS-GIDS.md: unused), so that no process of another user
 * may trace QEMU, as `nobody`'s could. Labs of different processes mostly have different ones.
 */
function labUid(): number {
  return FIRST_UID + (process.pid % UIDS);
}

/** @returns the file, or a copy in the folder when its mode keeps others from reading it */
function readableByAll(file: string, folder: string): string {
  if ((statSync(file).mode & 0o004) !== 0) return file;
  const copy = join(folder, basename(file));
  copyFileSync(file, copy);
  chmodSync(copy, 0o644);
  return copy;
}
