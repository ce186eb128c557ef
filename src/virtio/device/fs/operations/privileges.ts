/** What a file loses when it is changed: set-user-ID, set-group-ID and capabilities. */
import { S_ISGID, S_ISUID, S_IXGRP } from '../../../../abi/files.ts';
import * as files from '../../../../host/file-system.ts';
import type { FileSystem } from '../file-system.ts';
import type { FuseRequest } from '../fuse-request.ts';

/**
 * The content of an open file changes. The host clears its own capabilities, but not
 * the IDs, since nodevmm may be allowed to keep them.
 * @param kills the IDs are cleared as well
 */
export function takePrivileges(fs: FileSystem, fd: number, kills: boolean): void {
  const kept = fs.xattrs.keptCapability;
  if (kept !== 0 && files.fgetxattr(fd, kept, 0, 0) >= 0) files.removexattr(fs.pathOf(fd), kept);
  if (kills) killIds(fs, fd);
}

/** The owner of a file changes, which is given by an O_PATH descriptor. */
export function takeCapability(fs: FileSystem, fd: number): void {
  const kept = fs.xattrs.keptCapability;
  if (kept !== 0) files.removexattr(fs.pathOf(fd), kept);
}

/** For requests that do not show whether their caller has CAP_FSETID. */
export function mayNotKeepIds(request: FuseRequest): boolean {
  return request.uid !== 0;
}

function killIds(fs: FileSystem, fd: number): void {
  if (fs.look(fd) < 0) return;
  const { mode } = fs.stat;
  const group = (mode & S_IXGRP) === 0 ? 0 : S_ISGID;
  const killed = mode & (S_ISUID | group);
  if (killed !== 0) files.fchmod(fd, mode & 0o7777 & ~killed);
}
