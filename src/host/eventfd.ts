/** eventfd(2): the kick and call of every virtqueue, and the wake-up of every thread. */
import { Fd } from './fd.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

const one = new NativeMemory(8);
one.view.setUint32(0, 1, true);
const scratch = new NativeMemory(8);

/** Adds 1 to an eventfd's counter. Returns 8, or a negative errno. */
export function signalEventfd(fd: number): number {
  return sys.write(fd, one.address, 8);
}

/** Takes the counter back to 0. Returns true when it was above 0. */
export function drainEventfd(fd: number): boolean {
  return sys.read(fd, scratch.address, 8) === 8;
}

/** A non-blocking eventfd with an owner. */
export class Eventfd extends Fd {
  constructor() {
    super(sys.check(sys.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd', 'a new eventfd'));
  }

  signal(): void {
    signalEventfd(this.fd);
  }

  drain(): boolean {
    return drainEventfd(this.fd);
  }
}
