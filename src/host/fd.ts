/** One owner for a file descriptor, closed exactly once. */
import * as sys from './syscall.ts';

/** A file descriptor with an owner. Workers get the bare number and never close it. */
export class Fd implements Disposable {
  /** The descriptor, -1 once closed. */
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Opens a file with O_CLOEXEC. @throws HostError */
  static open(path: string, flags: number, remedy?: string): Fd {
    return new Fd(sys.check(sys.open(path, flags | sys.O_CLOEXEC), 'open', path, remedy));
  }

  get fd(): number {
    return this.#fd;
  }

  /** Hands the descriptor to another owner. */
  release(): number {
    const fd = this.#fd;
    this.#fd = -1;
    return fd;
  }

  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    sys.close(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
