/** The form of an operation: one FUSE opcode and its implementation. */
import { EBADF, EXDEV } from '../../../../abi/errno.ts';
import { type FileSystem, UNKNOWN } from '../file-system.ts';
import { BODY, type FuseRequest, NODEID } from '../fuse-request.ts';
import type { FileHandle } from '../handle-table.ts';
import type { Inode } from '../inode-table.ts';

/** The request gets no answer. */
export const NO_ANSWER = -0x10000;

/** The thread was needed meanwhile: the request is processed again, later. */
export const INTERRUPTED = -0x10001;

/** The implementation of one opcode. */
export interface Operation {
  /** Bytes of the struct after the header; at least that many are there when it runs. */
  readonly takes: number;
  /** The minimum room for an answer. */
  readonly gives: number;
  /** Refused while the folder is read-only. */
  readonly writes?: boolean;
  /** Also allowed on a mount point that is not crossed; EXDEV by default. */
  readonly onUncrossed?: boolean;
  /** Returns the bytes of its answer in `output`, a negative errno, NO_ANSWER or INTERRUPTED. */
  run(fs: FileSystem, request: FuseRequest): number;
}

/** All except the implementation. */
type About = Omit<Operation, 'run'>;

/** An operation on the file that the request is about. */
export function onInode(
  about: About,
  run: (fs: FileSystem, request: FuseRequest, inode: Inode) => number,
): Operation {
  return {
    ...about,
    run(fs: FileSystem, request: FuseRequest): number {
      const inode = fs.inodeAt(request, NODEID);
      if (inode === undefined) return UNKNOWN;
      return inode.isUncrossed && about.onUncrossed !== true ? -EXDEV : run(fs, request, inode);
    },
  };
}

type OnHandle = (
  about: About,
  run: (fs: FileSystem, request: FuseRequest, handle: FileHandle) => number,
) => Operation;

function onHandle(
  find: (fs: FileSystem, request: FuseRequest) => FileHandle | undefined,
): OnHandle {
  return (about, run) => ({
    ...about,
    run(fs: FileSystem, request: FuseRequest): number {
      const handle = find(fs, request);
      return handle === undefined ? -EBADF : run(fs, request, handle);
    },
  });
}

/** An operation on an open file, whose number is first in its struct. */
export const onFile = onHandle((fs, request) => fs.fileAt(request, BODY));

/** As `onFile`, of an open folder. */
export const onFolder = onHandle((fs, request) => fs.folderAt(request, BODY));

/** Closes it. */
export function release(fs: FileSystem, _request: FuseRequest, handle: FileHandle): number {
  fs.handles.close(handle);
  return 0;
}
