/** Processes one request: the operation for its opcode, after the checks common to all of them. */
import { EINVAL, ENOSYS, EROFS } from '../../../abi/errno.ts';
import { FUSE_BATCH_FORGET, FUSE_FORGET, FUSE_INTERRUPT } from '../../../abi/fuse.ts';
import type { FileSystem } from './file-system.ts';
import { BODY, type FuseRequest } from './fuse-request.ts';
import { attributeOperations } from './operations/attributes.ts';
import { fileOperations } from './operations/files.ts';
import { folderOperations } from './operations/folders.ts';
import { nameOperations } from './operations/names.ts';
import { NO_ANSWER, type Operation } from './operations/operation.ts';
import { sessionOperations } from './operations/session.ts';
import { xattrOperations } from './operations/xattrs.ts';

/** By opcode. */
const operations: (Operation | undefined)[] = [];
for (const group of [
  sessionOperations,
  nameOperations,
  attributeOperations,
  fileOperations,
  folderOperations,
  xattrOperations,
]) {
  for (const [opcode, operation] of group) operations[opcode] = operation;
}

/** Requests that are never answered, valid or not. */
export function isUnanswered(opcode: number): boolean {
  return opcode === FUSE_FORGET || opcode === FUSE_BATCH_FORGET || opcode === FUSE_INTERRUPT;
}

/** Returns the bytes of the answer, a negative errno, or NO_ANSWER. HOT. */
export function carryOut(fs: FileSystem, request: FuseRequest): number {
  const { opcode } = request;
  const operation = opcode < operations.length ? operations[opcode] : undefined;
  if (operation === undefined) return -ENOSYS;
  if (BODY + operation.takes > request.length) return -EINVAL;
  if (isUnanswered(opcode)) {
    operation.run(fs, request);
    return NO_ANSWER;
  }
  if (operation.gives > request.room) return -EINVAL;
  if (fs.readOnly && operation.writes === true) return -EROFS;
  return operation.run(fs, request);
}
