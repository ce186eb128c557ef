/**
 * What a share shows of the host: its folder and the file systems mounted below it, bind-mounted again in a
 * mount namespace of the server's own. There the lab's root is read-only for the host's kernel too,
 * no device node can be opened, and kernel file systems (/proc, /sys, /dev) are absent.
 */
import { realpathSync } from 'node:fs';
import { UsageError } from '../host/errors.ts';
import type { Share } from './qemu-command.ts';

/** One mount, as /proc/self/mountinfo has it (proc(5)). */
export interface Mount {
  readonly at: string;
  readonly type: string;
  /** Per mount: `rw`, `nosuid` ... */
  readonly options: readonly string[];
}

/** One bind mount to make: of `source`, at `below` the place of the share, with `options`. */
export interface Binding {
  readonly source: string;
  readonly below: string;
  readonly options: string;
}

/** Windows into kernels and devices. */
const NO_FILES = new Set([
  ...[
    'autofs',
    'binder',
    'binfmt_misc',
    'bpf',
    'cgroup',
    'cgroup2',
    'configfs',
    'debugfs',
    'devpts',
  ],
  ...[
    'devtmpfs',
    'efivarfs',
    'functionfs',
    'fusectl',
    'hugetlbfs',
    'mqueue',
    'nfsd',
    'nsfs',
    'proc',
  ],
  ...['pstore', 'resctrl', 'rpc_pipefs', 'securityfs', 'selinuxfs', 'smackfs', 'sysfs', 'tracefs'],
]);

/** The lab has its own of these. */
const OF_THE_LAB = ['/dev', '/proc', '/sys', '/run'];

/** Options of a mount that a copy of it keeps; a user namespace may not drop them. */
const KEPT = ['ro', 'nosuid', 'noexec', 'noatime', 'nodiratime', 'relatime', 'nosymfollow'];

/** @param text of /proc/self/mountinfo, a character for each byte */
export function parseMounts(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const [own = '', other = ''] = line.split(' - ');
    const [, , , , at, options] = own.split(' ');
    const [type] = other.split(' ');
    if (at === undefined || options === undefined || type === undefined) return [];
    return [{ at: decoded(at), type, options: options.split(',') }];
  });
}

/** `\040` and the like. */
function decoded(text: string): string {
  return Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    ),
    'latin1',
  ).toString('utf8');
}

/** The bind mounts that make up a share, the outer ones first. @throws UsageError for one of no files */
export function bindingsOf(share: Share, mounts: readonly Mount[]): Binding[] {
  const visible = new Map(mounts.map((mount) => [mount.at, mount]));
  const around = [...visible.values()].filter(({ at }) => isWithin(share.path, at));
  const base = around.sort((a, b) => b.at.length - a.at.length)[0];
  if (base !== undefined && NO_FILES.has(base.type)) {
    throw new UsageError('E_LAB', `${share.path} is in a ${base.type}, which the lab cannot share`);
  }
  const hidden = (at: string): boolean =>
    share.readOnly && OF_THE_LAB.some((folder) => isWithin(at, folder));
  const inner = [...visible.values()]
    .filter(({ at, type }) => at !== share.path && isWithin(at, share.path) && !NO_FILES.has(type))
    .filter(({ at }) => !hidden(at))
    .sort((a, b) => a.at.length - b.at.length);
  return [
    { source: share.path, below: '', options: optionsOf(share, base?.options ?? []) },
    ...inner.map(({ at, options }) => ({
      source: at,
      below: share.path === '/' ? at : at.slice(share.path.length),
      options: optionsOf(share, options),
    })),
  ];
}

function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);
}

function optionsOf(share: Share, options: readonly string[]): string {
  const own = KEPT.filter((option) => options.includes(option));
  const more = share.readOnly ? ['remount', 'bind', 'nodev', 'ro'] : ['remount', 'bind', 'nodev'];
  return [...new Set([...more, ...own])].join(',');
}

/**
 * Mounts on a tmpfs of its own, so that nothing of it is seen outside, and becomes the server, which holds a
 * descriptor for each file that the lab knows: as many as the kernel allows, or else as many as the host does.
 */
const SCRIPT = `set -e
mount=$1 at=$2
shift 2
"$mount" -t tmpfs -o mode=0700,size=64k nodevmm-lab "$at"
"$mount" --make-private "$at"
mkdir "$at/share"
"$mount" --bind "$1" "$at/share"
while [ "$1" != -- ]; do
	[ -z "$2" ] || "$mount" --bind "$1" "$at/share$2" 2>/dev/null || { shift 3; continue; }
	"$mount" -o "$3" "$at/share$2"
	shift 3
done
shift
ulimit -n "$(cat /proc/sys/fs/nr_open)" 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec "$@"`;

/** Programs of util-linux. */
export interface MountTools {
  readonly unshare: string;
  readonly mount: string;
}

/**
 * A command that runs another one in a mount namespace of its own, in which `${at}/share` is the share.
 * @param at a folder that only we can enter
 */
export function mountedCommand(
  tools: MountTools,
  share: Share,
  at: string,
  mounts: readonly Mount[],
  command: readonly string[],
): string[] {
  // Below chroot(2) the root need not be a mount, whose propagation could be changed.
  const propagation = mounts.some((mount) => mount.at === '/') ? 'private' : 'unchanged';
  const real = { ...share, path: realpathSync(share.path) };
  const bindings = bindingsOf(real, mounts).flatMap((one) => [one.source, one.below, one.options]);
  return [
    ...[tools.unshare, '--mount', '--propagation', propagation],
    ...['/bin/sh', '-c', SCRIPT, 'sh', tools.mount, at, ...bindings, '--', ...command],
  ];
}
