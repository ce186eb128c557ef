/** One ring as the frontend has described it so far, with the descriptors that belong to it. */
import { checkEventfd, Eventfd, type Fd, replaceFd, signalEventfd } from '../../host/fd.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';
import type { VringAddress } from '../payload.ts';

/** From the first message about it to the end of the connection. */
export class ExportedRing implements Disposable {
  readonly index: number;
  size = 0;
  address: VringAddress | undefined;
  /** What VHOST_USER_SET_VRING_BASE said last. */
  base = 0;
  /** Where it stands, once it was served; takes the place of `base`. */
  state: VringState | undefined;
  /** Between VHOST_USER_SET_VRING_KICK and GET_VRING_BASE. */
  started = false;
  enabled = false;
  /** The frontend sends no kicks: the ring has to be polled. */
  polled = false;
  /** Our own number for whatever the frontend wants to be signalled. */
  readonly #call = new Eventfd();
  #kick: Fd | undefined;
  #error: Fd | undefined;

  constructor(index: number) {
    this.index = index;
  }

  get kickFd(): number {
    return this.#kick?.fd ?? -1;
  }

  get callFd(): number {
    return this.#call.fd;
  }

  /**
   * Starts it. It is not being served.
   * @param fd owned from here on; undefined when the frontend sends no kicks
   * @throws PeerError when it is no eventfd
   */
  setKick(fd: Fd | undefined): void {
    checkPeerEventfd(fd);
    this.#kick?.close();
    this.#kick = fd ?? new Eventfd();
    this.polled = fd === undefined;
    this.started = true;
  }

  /** Also while it is served: signals go to the new one from here on. @throws PeerError */
  setCall(fd: Fd | undefined): void {
    using given = checkPeerEventfd(fd) ?? new Eventfd();
    replaceFd(this.#call.fd, given.fd);
  }

  /** @param fd owned from here on. @throws PeerError when it is no eventfd */
  setError(fd: Fd | undefined): void {
    checkPeerEventfd(fd);
    this.#error?.close();
    this.#error = fd;
  }

  /** Tells the frontend that the ring is not served any more. */
  signalError(): void {
    if (this.#error !== undefined) signalEventfd(this.#error.fd);
  }

  /** Forgets all but its size: VHOST_USER_RESET_DEVICE. It is not being served. */
  reset(): void {
    this.started = false;
    this.enabled = false;
    this.state = undefined;
    this.base = 0;
    this.address = undefined;
  }

  [Symbol.dispose](): void {
    this.#call.close();
    this.#kick?.close();
    this.#error?.close();
  }
}

/** Closes what cannot be used. @throws PeerError */
function checkPeerEventfd(fd: Fd | undefined): Fd | undefined {
  if (fd === undefined) return undefined;
  try {
    checkEventfd(fd.fd);
    return fd;
  } catch (error) {
    fd.close();
    throw error;
  }
}
