/** What a file loses when somebody changes it: set-user-ID, set-group-ID and capabilities. */
import { S_ISGID, S_ISUID, S_IXGRP } from '../../../../abi/files.ts';
import * as files from '../../../../host/file-system.ts';
import type { FileSystem } from '../file-system.ts';
import type { FuseRequest } from '../fuse-request.ts';

/**
 * The content of an open file changes. The host takes capabilities that are its own, and does not take
 * the IDs: nodevmm may keep them.
 * @param kills the IDs go as well
 */
export function takePrivileges(fs: FileSystem, fd: number, kills: boolean): void {
  const kept = fs.xattrs.keptCapability;
  if (kept !== 0 && files.fgetxattr(fd, kept, 0, 0) >= 0) files.removexattr(fs.pathOf(fd), kept);
  if (kills) killIds(fs, fd);
}

/** The owner of a file changes, which is known by a descriptor opened with O_PATH. */
export function takeCapability(fs: FileSystem, fd: number): void {
  const kept = fs.xattrs.keptCapability;
  if (kept !== 0) files.removexattr(fs.pathOf(fd), kept);
}

/** For requests that do not tell whether their caller has CAP_FSETID. */
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
