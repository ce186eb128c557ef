/** What an operation is: one FUSE opcode, carried out. */
import type { FileSystem } from '../file-system.ts';
import type { FuseRequest } from '../fuse-request.ts';

/** The request gets no answer. */
export const NO_ANSWER = -0x10000;

/** How one opcode is carried out. */
export interface Operation {
  /** Bytes of the struct behind the header; as many are there when it runs. */
  readonly takes: number;
  /** Room for an answer that there has to be. */
  readonly gives: number;
  /** Refused while the folder is read-only. */
  readonly writes?: boolean;
  /** Returns the bytes of its answer in `output`, a negative errno, or NO_ANSWER. */
  run(fs: FileSystem, request: FuseRequest): number;
}
