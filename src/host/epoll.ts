/**
 * epoll(7) for threads that block in it.
 *
 * HOT. The event array is made once; `wait` fills it and the getters read it by index.
 */
import { EINTR } from '../abi/errno.ts';
import { Fd } from './fd.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
const EPOLL_CLOEXEC = 0o2000000;

export const EPOLLIN = 0x1;
export const EPOLLOUT = 0x4;
export const EPOLLERR = 0x8;
export const EPOLLHUP = 0x10;
/** Report each signal once, instead of until the descriptor is drained. */
export const EPOLLET = 0x8000_0000;

/** 32-bit words of a struct epoll_event, which is packed on x86-64: events, data (u64). */
const EVENT_WORDS = 3;

/** An epoll instance with an owner. */
export class Epoll extends Fd {
  readonly #change = new NativeMemory(EVENT_WORDS * 4);
  readonly #events: Uint32Array;
  readonly #eventsAddress: number;
  readonly #capacity: number;

  /** @param capacity the most events that one `wait` returns */
  constructor(capacity: number) {
    super(sys.check(sys.epollCreate1(EPOLL_CLOEXEC), 'epoll_create1', 'a new epoll instance'));
    const memory = new NativeMemory(capacity * EVENT_WORDS * 4);
    this.#events = new Uint32Array(memory.bytes.buffer);
    this.#eventsAddress = memory.address;
    this.#capacity = capacity;
  }

  /**
   * Starts to watch a descriptor.
   * @param events EPOLL* bits
   * @param token any 32-bit number, returned by `token` when the descriptor is ready
   * @throws HostError
   */
  add(fd: number, events: number, token: number): void {
    this.#control(EPOLL_CTL_ADD, fd, events, token);
  }

  /** Changes events and token of a watched descriptor. @throws HostError */
  modify(fd: number, events: number, token: number): void {
    this.#control(EPOLL_CTL_MOD, fd, events, token);
  }

  /** Ends the watch of a descriptor; closing the descriptor already ends it. */
  remove(fd: number): void {
    sys.epollCtl(this.fd, EPOLL_CTL_DEL, fd, 0);
  }

  /**
   * Blocks until a watched descriptor is ready.
   * @param timeoutMs -1 to wait forever, 0 not to wait
   * @returns the number of events, 0 on time-out or signal. @throws HostError
   */
  wait(timeoutMs: number): number {
    const count = sys.epollWait(this.fd, this.#eventsAddress, this.#capacity, timeoutMs);
    if (count >= 0) return count;
    return count === -EINTR ? 0 : sys.check(count, 'epoll_wait', 'an epoll instance');
  }

  /** EPOLL* bits of an event that `wait` returned. */
  events(index: number): number {
    return this.#events[index * EVENT_WORDS] as number;
  }

  /** Its token. */
  token(index: number): number {
    return this.#events[index * EVENT_WORDS + 1] as number;
  }

  #control(operation: number, fd: number, events: number, token: number): void {
    this.#change.view.setUint32(0, events, true);
    this.#change.view.setUint32(4, token, true);
    const result = sys.epollCtl(this.fd, operation, fd, this.#change.address);
    sys.check(result, 'epoll_ctl', `descriptor ${fd}`);
  }
}
