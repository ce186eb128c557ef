/** Failed system calls of the guest, as Node reports its own. */
import { getSystemErrorMap } from 'node:util';
import { UsageError } from '../host/errors.ts';
import { errnoName } from '../host/syscall.ts';

/** What a system call was applied to. */
export interface SystemErrorDetails {
  readonly path?: string;
  /** The second path: of a rename, where to; of a symbolic link, where it is. */
  readonly dest?: string;
  /** Of a connection: `10.0.0.2:80`. */
  readonly address?: string;
}

/** A system call that failed in the guest; `code` is its errno's name, e.g. `ENOENT`. */
export class GuestSystemError extends UsageError implements NodeJS.ErrnoException {
  /** Negative, as Node has it. */
  readonly errno: number;
  readonly syscall: string;
  declare readonly path?: string;
  declare readonly dest?: string;
  declare readonly address?: string;

  /** @param errno positive */
  constructor(errno: number, syscall: string, details: SystemErrorDetails) {
    const code = errnoName(errno);
    const [, text = 'unknown error'] = getSystemErrorMap().get(-errno) ?? [];
    const { path, dest, address } = details;
    const to = dest === undefined ? '' : ` -> '${dest}'`;
    const what = address ?? `'${path}'${to}`;
    super(code, `${code}: ${text}, ${syscall} ${what} in the guest`);
    this.errno = -errno;
    this.syscall = syscall;
    Object.assign(this, details);
  }
}
