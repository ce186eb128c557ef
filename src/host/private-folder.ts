/**
 * Folders that no other user of the host can change or exchange. A path is only as good as the
 * folders on the way to it: a user who may write to one of them, or owns it, decides what the path
 * means. So each of them, and each symbolic link, must be root's or ours.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  type Stats,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { S_ISVTX } from '../abi/files.ts';
import { UsageError } from './errors.ts';

/** As many as the kernel follows (path_resolution(7)). */
const MOST_LINKS = 40;
const FOR_OTHERS = 0o077;
const WRITABLE_BY_OTHERS = 0o022;

/** The text of a refusal. */
export interface FolderPurpose {
  /** E_*. */
  readonly code: string;
  /** What the folder is, e.g. `the cache folder`. */
  readonly name: string;
  /** What the user can do, when it is not for the folder itself. */
  readonly remedy: string;
}

/**
 * Follows a path from the root, as the kernel would, and makes sure that no one else can change
 * where it leads. Missing parts are fine: only root and we could create them.
 * @returns the same place, without symbolic links
 * @throws UsageError in one line
 */
export function trustedPath(path: string, purpose: FolderPurpose): string {
  let at = '/';
  let links = 0;
  const names = resolve(path).split('/');
  checkFolder(at, lstatSync(at), purpose);
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    if (name === '' || name === '.') continue;
    const next = name === '..' ? dirname(at) : join(at, name);
    const stat = look(next, purpose);
    if (stat === undefined) return join(next, ...names);
    if (stat.isSymbolicLink()) {
      checkOwner(next, stat, purpose);
      links += 1;
      if (links > MOST_LINKS) throw refusal(purpose, `${path} has too many symbolic links`);
      const target = readlinkSync(next);
      if (target.startsWith('/')) at = '/';
      names.unshift(...target.split('/'));
      continue;
    }
    checkFolder(next, stat, purpose);
    at = next;
  }
  return at;
}

/**
 * A folder of this user's own that no one else can enter; created when it is missing, left as it is
 * when it is anything else. Those above it may be for others too, as /tmp is.
 * @returns its path, without symbolic links
 * @throws UsageError in one line
 */
export function closedFolder(path: string, purpose: FolderPurpose): string {
  const folder = join(trustedPath(dirname(path), purpose), basename(path));
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw refusal(purpose, `cannot create ${folder}: ${code}`, error);
  }
  const fd = open(folder, purpose);
  try {
    const stat = fstatSync(fd);
    checkIsOwn(folder, stat, purpose);
    if ((stat.mode & FOR_OTHERS) !== 0) {
      const mode = (stat.mode & 0o7777).toString(8);
      const why = `${folder} is open to other users (mode ${mode})`;
      throw refusal({ ...purpose, remedy: `chmod 700 ${folder}` }, why);
    }
  } finally {
    closeSync(fd);
  }
  return folder;
}

/**
 * A folder of this user's own that no one else can write to. Missing is fine.
 * @returns its path, without symbolic links
 * @throws UsageError in one line
 */
export function ownFolder(path: string, purpose: FolderPurpose): string {
  const folder = trustedPath(path, purpose);
  const stat = look(folder, purpose);
  if (stat === undefined) return folder;
  checkIsOwn(folder, stat, purpose);
  if ((stat.mode & WRITABLE_BY_OTHERS) === 0) return folder;
  throw refusal({ ...purpose, remedy: `chmod go-w ${folder}` }, mayWrite(folder, stat));
}

/** @throws UsageError for a link, or what is not a folder */
function open(folder: string, purpose: FolderPurpose): number {
  try {
    return openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // A link is ENOTDIR as well (open(2), O_NOFOLLOW).
    const isLink = look(folder, purpose)?.isSymbolicLink() === true;
    const why = isLink
      ? 'is a symbolic link'
      : code === 'ENOTDIR'
        ? 'is not a folder'
        : `: ${code}`;
    throw refusal(purpose, `${folder} ${why}`, error);
  }
}

function look(path: string, purpose: FolderPurpose): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw refusal(purpose, `${path}: ${(error as NodeJS.ErrnoException).code}`, error);
  }
}

/** In a sticky folder others cannot rename or remove what is not theirs (unlink(2)). */
function checkFolder(path: string, stat: Stats, purpose: FolderPurpose): void {
  checkOwner(path, stat, purpose);
  if (!stat.isDirectory()) throw refusal(purpose, `${path} is not a folder`);
  if ((stat.mode & WRITABLE_BY_OTHERS) === 0 || (stat.mode & S_ISVTX) !== 0) return;
  throw refusal(
    { ...purpose, remedy: `chmod go-w ${path}, or ${purpose.remedy}` },
    mayWrite(path, stat),
  );
}

function checkOwner(path: string, { uid }: Stats, purpose: FolderPurpose): void {
  if (uid === 0 || uid === process.geteuid?.() || isHidden(uid)) return;
  throw refusal(purpose, `${path} belongs to user ${uid}`);
}

/** Not even root's. */
function checkIsOwn(path: string, { uid }: Stats, purpose: FolderPurpose): void {
  if (uid !== process.geteuid?.()) throw refusal(purpose, `${path} belongs to user ${uid}`);
}

function mayWrite(path: string, { mode }: Stats): string {
  return `other users may write to ${path} (mode ${(mode & 0o7777).toString(8)})`;
}

/**
 * True for the owner that a user namespace shows for all it does not map, the host's root among
 * them (user_namespaces(7)). Limit: one of them cannot be distinguished from another.
 */
function isHidden(uid: number): boolean {
  const map = readFileSync('/proc/self/uid_map', 'latin1').trim().split(/\s+/);
  if (map.join(' ') === '0 0 4294967295') return false;
  return uid === Number(readFileSync('/proc/sys/kernel/overflowuid', 'latin1'));
}

function refusal(purpose: FolderPurpose, why: string, cause?: unknown): UsageError {
  const what = `${purpose.name} cannot be used: ${why}`;
  return new UsageError(purpose.code, what, purpose.remedy, cause === undefined ? {} : { cause });
}

/** The folder for this user's sockets, which only this user can enter; made when missing. @throws UsageError */
export function runtimeFolder(): string {
  const runtime = process.env.XDG_RUNTIME_DIR ?? '';
  // XDG Base Directory Specification: relative paths are invalid and to be ignored.
  const folder = isAbsolute(runtime)
    ? join(runtime, 'nodevmm')
    : join(tmpdir(), `nodevmm-${process.geteuid?.() ?? 0}`);
  return closedFolder(folder, {
    code: 'E_RUNTIME',
    name: 'the folder for sockets',
    remedy: 'set XDG_RUNTIME_DIR to a folder of your own',
  });
}

/** The cache folder, unchecked: `$XDG_CACHE_HOME/nodevmm`, else `~/.cache/nodevmm`. */
export function cachePath(env: NodeJS.ProcessEnv = process.env): string {
  const base = env.XDG_CACHE_HOME ?? '';
  // XDG Base Directory Specification: relative paths are invalid and to be ignored.
  return join(isAbsolute(base) ? base : join(homedir(), '.cache'), 'nodevmm');
}

/**
 * Checks a folder whose contents are booted, or run: it has to be this user's own, and no other may
 * write to it. Missing is fine.
 * @returns its path, without symbolic links
 * @throws UsageError
 */
export function checkedCache(folder: string): string {
  return ownFolder(folder, {
    code: 'E_CACHE',
    name: 'the cache folder',
    remedy: 'set XDG_CACHE_HOME, or HOME as "sudo -H" does, to a folder of your own',
  });
}
