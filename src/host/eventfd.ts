/** eventfd(2): the kick and call of every virtqueue, and the wake-up of every thread. */
import { readlinkSync } from 'node:fs';
import { PeerError } from './errors.ts';
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

const F_GETFL = 3;
const F_SETFL = 4;

/**
 * Makes sure that a descriptor which another process sent can be used as an eventfd: a pipe or a
 * file in its place could block a thread for ever.
 * @throws PeerError
 */
export function checkEventfd(fd: number): void {
  const what = readlinkSync(`/proc/self/fd/${fd}`);
  if (what !== 'anon_inode:[eventfd]') {
    throw new PeerError('E_EVENTFD', `the peer sent ${what} where an eventfd belongs`);
  }
  const flags = sys.check(sys.fcntl(fd, F_GETFL), 'fcntl', "a peer's eventfd");
  sys.check(sys.fcntl(fd, F_SETFL, flags | EFD_NONBLOCK), 'fcntl', "a peer's eventfd");
}

/** Puts another file behind a descriptor that threads use already. @throws HostError */
export function replaceFd(target: number, by: number): void {
  sys.check(sys.dup3(by, target, sys.O_CLOEXEC), 'dup3', `descriptor ${by}`);
}
