/** File descriptors with one owner each, closed exactly once: files, eventfds and timers. */

import { readlinkSync } from 'node:fs';
import { Closeable } from './cleanup-stack.ts';
import { PeerError } from './errors.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

/** A file descriptor with an owner. Workers get the bare number and never close it. */
export class Fd extends Closeable {
  /** The descriptor, -1 once closed. */
  #fd: number;

  constructor(fd: number) {
    super();
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
}

const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

const one = new NativeMemory(8);
one.view.setUint32(0, 1, true);
const counter = new NativeMemory(8);

/** Adds 1 to an eventfd's counter. Returns 8, or a negative errno. */
export function signalEventfd(fd: number): number {
  return sys.write(fd, one.address, 8);
}

/** Resets the counter to 0. Returns true when it was above 0. */
export function drainEventfd(fd: number): boolean {
  return sys.read(fd, counter.address, 8) === 8;
}

/** A non-blocking eventfd(2): the kick and call of every virtqueue, and the wake-up of every thread. */
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
 * file in its place could block a thread forever.
 * @throws PeerError
 */
export function checkEventfd(fd: number): void {
  const what = readlinkSync(`/proc/self/fd/${fd}`);
  if (what !== 'anon_inode:[eventfd]') {
    throw new PeerError('E_EVENTFD', `the peer sent ${what} instead of an eventfd`);
  }
  const flags = sys.check(sys.fcntl(fd, F_GETFL), 'fcntl', "a peer's eventfd");
  sys.check(sys.fcntl(fd, F_SETFL, flags | EFD_NONBLOCK), 'fcntl', "a peer's eventfd");
}

/** Makes a descriptor that threads already use refer to another file. @throws HostError */
export function replaceFd(target: number, by: number): void {
  sys.check(sys.dup3(by, target, sys.O_CLOEXEC), 'dup3', `descriptor ${by}`);
}

const SYS_timerfd_create = 283;
const SYS_timerfd_settime = 286;
const CLOCK_MONOTONIC = 1;
const TFD_NONBLOCK = 0o4000;
const TFD_CLOEXEC = 0o2000000;
/** struct itimerspec: interval and time to go, each seconds and nanoseconds. */
const ITIMERSPEC_SIZE = 32;
const VALUE = 16;
const NANOSECONDS = 1e9;

/** Of the calling thread. */
let itimerspec: NativeMemory | undefined;

/**
 * Makes a timer's descriptor become readable once, later; any thread may call it.
 * @param delayNs at most 2^53; 0: never
 */
export function armTimerfd(fd: number, delayNs: number): void {
  itimerspec ??= new NativeMemory(ITIMERSPEC_SIZE);
  const { view, address } = itimerspec;
  view.setUint32(VALUE, Math.floor(delayNs / NANOSECONDS), true);
  view.setUint32(VALUE + 8, delayNs % NANOSECONDS, true);
  const result = sys.syscall(SYS_timerfd_settime, fd, 0, address, 0);
  sys.check(result, 'timerfd_settime', `${delayNs} ns`);
}

/** A timerfd(2) that becomes readable once: a later wake-up for a thread that waits for descriptors. */
export class Timerfd extends Fd {
  readonly #expirations = new NativeMemory(8);

  constructor() {
    const flags = TFD_NONBLOCK | TFD_CLOEXEC;
    const fd = sys.syscall(SYS_timerfd_create, CLOCK_MONOTONIC, flags);
    super(sys.check(fd, 'timerfd_create', 'a new timer'));
  }

  /** @param delayNs at least 1, at most 2^53 */
  arm(delayNs: number): void {
    armTimerfd(this.fd, delayNs);
  }

  /** Makes it unreadable again. Returns whether it had expired. */
  drain(): boolean {
    return sys.read(this.fd, this.#expirations.address, 8) === 8;
  }
}

/** struct pollfd: fd, events, revents. */
const pollfd = new NativeMemory(8);
const POLLIN = 1;

/** True when a read from the descriptor would not block (poll(2)). */
export function isReadable(fd: number): boolean {
  pollfd.view.setInt32(0, fd, true);
  pollfd.view.setInt16(4, POLLIN, true);
  return sys.poll(pollfd.address, 1, 0) > 0;
}
