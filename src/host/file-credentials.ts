/**
 * Makes files as another user, in the calling thread alone (setfsuid(2), credentials(7)).
 * Permissions stay as before: only the owner of new files differs, from the first moment on.
 */
import { isMainThread } from 'node:worker_threads';
import { EPERM } from '../abi/errno.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const SYS_umask = 95;
const SYS_setfsuid = 122;
const SYS_setfsgid = 123;
const SYS_capget = 125;
const SYS_capset = 126;
const SYS_unshare = 272;
const CLONE_FS = 0x200;
const LINUX_CAPABILITY_VERSION_3 = 0x20080522;

/** Of the thread that makes the object, and uses it. */
export class FileCredentials {
  readonly #uid = process.geteuid?.() ?? -1;
  readonly #gid = process.getegid?.() ?? -1;
  readonly #header = new NativeMemory(8);
  readonly #capabilities = new NativeMemory(24);
  #umask = 0;
  #switched = false;

  constructor() {
    // So that this thread's umask is its own. Where that is forbidden, the process has another one
    // for the time of a call.
    if (!isMainThread) sys.syscall(SYS_unshare, CLONE_FS, 0);
    this.#header.view.setUint32(0, LINUX_CAPABILITY_VERSION_3, true);
    sys.syscall(SYS_capget, this.#header.address, this.#capabilities.address);
  }

  /**
   * Files made until `leave` are the given user's, with the given umask. Without root, they are files of
   * his own in any case.
   * @returns 0, or a negative errno: nothing is to be made then, nor left
   */
  enter(uid: number, gid: number, umask = 0): number {
    if (this.#uid === 0 && (uid !== 0 || gid !== this.#gid) && !this.#become(uid, gid)) {
      this.#restore();
      return -EPERM;
    }
    this.#umask = sys.syscall(SYS_umask, umask, 0);
    return 0;
  }

  leave(): void {
    sys.syscall(SYS_umask, this.#umask, 0);
    if (this.#switched) this.#restore();
  }

  /** False for one that the host's user namespace does not know. */
  #become(uid: number, gid: number): boolean {
    this.#switched = true;
    // Each returns the one before, and no error: asked again, the one that is.
    sys.syscall(SYS_setfsgid, gid, 0);
    sys.syscall(SYS_setfsuid, uid, 0);
    const became =
      sys.syscall(SYS_setfsgid, gid, 0) === gid && sys.syscall(SYS_setfsuid, uid, 0) === uid;
    // Leaving 0 took the capabilities on files away. The guest's kernel has checked what its user may.
    sys.syscall(SYS_capset, this.#header.address, this.#capabilities.address);
    return became;
  }

  #restore(): void {
    sys.syscall(SYS_setfsuid, this.#uid, 0);
    sys.syscall(SYS_setfsgid, this.#gid, 0);
    this.#switched = false;
  }
}
