/** A stand-in for a tap: the two ends of a socket that keeps packets apart. */
import { TapQueue } from '../../../src/backend/tap-queue.ts';
import { Fd } from '../../../src/host/fd.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';
import * as sys from '../../../src/host/syscall.ts';

const SYS_socketpair = 53;
const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const LARGEST = 128 * 1024;

/** The device has `fd`; the test sends and receives at the other end. */
export class PacketPair implements Disposable {
  readonly #near: Fd;
  readonly #far: Fd;
  readonly #buffer = new NativeMemory(LARGEST);

  constructor() {
    const pair = new NativeMemory(8);
    const type = SOCK_SEQPACKET | sys.O_NONBLOCK | sys.O_CLOEXEC;
    const result = sys.syscall(SYS_socketpair, AF_UNIX, type, 0, pair.address);
    sys.check(result, 'socketpair', 'a packet socket');
    this.#near = new Fd(pair.view.getInt32(0, true));
    this.#far = new Fd(pair.view.getInt32(4, true));
  }

  get fd(): number {
    return this.#near.fd;
  }

  /** Hands the device a packet. */
  send(packet: Uint8Array): void {
    this.#buffer.bytes.set(packet);
    sys.check(sys.write(this.#far.fd, this.#buffer.address, packet.length), 'write', 'a packet');
  }

  /** Takes a packet that the device sent, null when there is none. */
  receive(): Uint8Array | null {
    const length = sys.read(this.#far.fd, this.#buffer.address, LARGEST);
    return length < 0 ? null : this.#buffer.bytes.slice(0, length);
  }

  /** Closes the other end, as when a tap is removed. */
  cut(): void {
    this.#far.close();
  }

  [Symbol.dispose](): void {
    this.#near.close();
    this.#far.close();
  }
}

/** A tap's queue whose reads fail at a test's request. */
export class FaultyTapQueue extends TapQueue {
  /** Errnos of the next reads, the first one first. */
  readonly faults: number[] = [];
  /** Reads so far. */
  reads = 0;

  override receive(iovec: number, count: number): number {
    this.reads++;
    const errno = this.faults.shift();
    return errno === undefined ? super.receive(iovec, count) : -errno;
  }

  override receiveInto(address: number, length: number): number {
    this.reads++;
    const errno = this.faults.shift();
    return errno === undefined ? super.receiveInto(address, length) : -errno;
  }
}
