/**
 * Names of extended attributes, the guest's and the host's. Some have a meaning on the host: with
 * `security.capability` a guest could give programs there capabilities. Unless passthrough is enabled,
 * they are stored under names without a meaning there, as virtiofsd's xattrmap does.
 */
import { EOPNOTSUPP, ERANGE } from '../../../abi/errno.ts';
import { NativeMemory } from '../../../host/native-memory.ts';

/** How attributes that have a meaning on the host are stored. */
export type XattrMode = 'mapped' | 'passthrough';

/** XATTR_NAME_MAX of linux/limits.h. */
const NAME_MAX = 255;
const USER = Buffer.from('user.');
const PREFIX = Buffer.from('user.virtiofs.');
/** The prefix among them, so that no guest user can access what is stored under it, and mappings nest. */
const MAPPED = [Buffer.from('security.'), Buffer.from('trusted.'), PREFIX];
const ACLS = ['access', 'default'].map((kind) => Buffer.from(`system.posix_acl_${kind}\0`));
const ACCESS_ACL = ACLS.slice(0, 1);

function startsWithAny(bytes: Uint8Array, at: number, starts: readonly Buffer[]): boolean {
  return starts.some((start) => start.every((byte, i) => bytes[at + i] === byte));
}

/** True for the name of a POSIX ACL. The host enforces it, as it does chmod(2): it is never mapped. */
export function isAcl(bytes: Uint8Array, at: number): boolean {
  return startsWithAny(bytes, at, ACLS);
}

export function isAccessAcl(bytes: Uint8Array, at: number): boolean {
  return startsWithAny(bytes, at, ACCESS_ACL);
}

/** NUL-terminated text in memory. */
function textAt(text: string): NativeMemory {
  const bytes = Buffer.from(`${text}\0`);
  const memory = new NativeMemory(bytes.length);
  memory.bytes.set(bytes);
  return memory;
}

export class XattrNames {
  readonly mode: XattrMode;
  readonly #mapped = new NativeMemory(NAME_MAX + 1);
  readonly #capability = textAt(`${PREFIX}security.capability`);

  constructor(mode: XattrMode) {
    this.mode = mode;
    this.#mapped.bytes.set(PREFIX);
  }

  /**
   * Address of the name under which file capabilities are stored, or 0: the host has them as its own, and
   * clears them itself.
   */
  get keptCapability(): number {
    return this.mode === 'mapped' ? this.#capability.address : 0;
  }

  /**
   * Address of the host's name for one of the guest's, good until the next call, or a negative errno.
   * @param bytes that hold it, with a NUL after it; they are at `address`
   */
  toHost(bytes: Uint8Array, address: number, at: number, length: number): number {
    if (length > NAME_MAX) return -ERANGE;
    if (this.mode === 'passthrough' || isAcl(bytes, at)) return address + at;
    if (startsWithAny(bytes, at, MAPPED)) {
      if (PREFIX.length + length > NAME_MAX) return -ERANGE;
      this.#mapped.bytes.set(bytes.subarray(at, at + length + 1), PREFIX.length);
      return this.#mapped.address;
    }
    return startsWithAny(bytes, at, [USER]) ? address + at : -EOPNOTSUPP;
  }

  /** Turns a list of the host's names into one of the guest's, in place. Returns its new length. */
  toGuest(bytes: Uint8Array, length: number): number {
    if (this.mode === 'passthrough') return length;
    let kept = 0;
    for (let from = 0; from < length; ) {
      const end = bytes.indexOf(0, from) + 1;
      const start = this.#shown(bytes, from);
      if (start >= 0) {
        bytes.copyWithin(kept, start, end);
        kept += end - start;
      }
      from = end;
    }
    return kept;
  }

  /** Where the guest's name starts within a host's, or -1: it is the host's alone. */
  #shown(bytes: Uint8Array, at: number): number {
    if (startsWithAny(bytes, at, [PREFIX])) {
      return startsWithAny(bytes, at + PREFIX.length, MAPPED) ? at + PREFIX.length : -1;
    }
    return startsWithAny(bytes, at, [USER]) || isAcl(bytes, at) ? at : -1;
  }
}
