/**
 * One stream connection (virtio 1.3 §5.10.6.5): a port of the guest at one end, a byte stream of
 * the host at the other. It outlives the data half, which is remade after every pause.
 *
 * A packet for the guest is composed when there is a buffer for it, so that
 * nothing is queued but at most `BUFFER` bytes towards the host, and what one read of the host's
 * stream returned towards the guest.
 */
import type { Duplex } from 'node:stream';
import * as abi from '../../../abi/virtio-vsock.ts';
import { VsockOutbox } from './vsock-outbox.ts';
import { BUFFER, type PacketHeader, VsockCredit } from './vsock-packet.ts';

const BOTH = abi.VIRTIO_VSOCK_SHUTDOWN_RCV | abi.VIRTIO_VSOCK_SHUTDOWN_SEND;
const EMPTY = new Uint8Array(0);

/** How long the guest may take, in milliseconds. */
export interface Patience {
  /** To answer a REQUEST. */
  readonly answer: number;
  /** To answer a SHUTDOWN of both directions (§5.10.6.5 asks for a limit). */
  readonly close: number;
}

/** The owner of connections. */
export interface ConnectionOwner {
  readonly patience: Patience;
  /** The connection may have a packet for the guest. */
  ready(connection: VsockConnection): void;
  /** The two ports are free again. @param reset whether to send the guest an RST */
  ended(connection: VsockConnection, reset: boolean): void;
  /** The host's stream is closed, too. */
  released(connection: VsockConnection): void;
}

/**
 * `connecting`: the guest sent a REQUEST, the host's program has not answered. `asking`: the host's
 * program connected, no REQUEST is sent yet. `asked`: it was sent. `closing`: both are shut down, the
 * guest's RST is due.
 */
type State = 'connecting' | 'asking' | 'asked' | 'open' | 'closing' | 'ended';

/** See the file. */
export class VsockConnection {
  readonly guestPort: number;
  readonly hostPort: number;
  readonly #owner: ConnectionOwner;
  readonly #stream: Duplex;
  readonly #outbox: VsockOutbox;
  #state: State;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  /** The host's stream has ended: nothing more comes from it. */
  #hostEnded = false;
  /** Shutdown flags that the guest sent, and that it was sent. */
  #guestShutdown = 0;
  #toldShutdown = 0;
  #responseDue = false;
  /** The guest requested our credit; it should get an update; we requested its credit. */
  #creditQueried = false;
  #creditDue = false;
  #creditAsked = false;
  readonly #credit = new VsockCredit();

  /** @param request the guest's REQUEST; undefined when the host's program connects */
  constructor(
    owner: ConnectionOwner,
    stream: Duplex,
    ports: { readonly guestPort: number; readonly hostPort: number },
    request?: PacketHeader,
  ) {
    this.#owner = owner;
    this.#stream = stream;
    this.#outbox = new VsockOutbox(stream, BUFFER, (bytes) => this.#taken(bytes));
    this.guestPort = ports.guestPort;
    this.hostPort = ports.hostPort;
    this.#state = request === undefined ? 'asking' : 'connecting';
    if (request !== undefined) this.#learnCredit(request);
    stream.on('readable', () => this.#readable());
    stream.on('end', () => {
      this.#hostEnded = true;
      owner.ready(this);
    });
    stream.on('error', () => this.#end(true));
    stream.on('close', () => {
      this.#closed = true;
      // After both directions ended the guest still has to reply; otherwise the host is gone.
      if (this.#state === 'ended') owner.released(this);
      else if (this.#state !== 'closing' && !this.#shutdownDue) this.#end(true);
    });
  }

  /** The host's program accepted: the guest is notified. */
  accepted(): void {
    if (this.#state !== 'connecting') return;
    this.#state = 'open';
    this.#responseDue = true;
    this.#owner.ready(this);
  }

  /** Whether the guest knows of this connection. */
  get known(): boolean {
    return this.#state !== 'asking';
  }

  /** Whether `compose` has a packet. */
  get hasPacket(): boolean {
    if (this.#state === 'asking') return true;
    if (this.#state !== 'open') return false;
    if (this.#responseDue || this.#creditQueried || this.#creditDue) return true;
    if (this.#waiting > 0) return this.#credit.peerFree > 0 || !this.#creditAsked;
    return this.#shutdownDue;
  }

  /**
   * Composes the next packet for the guest. Only when `hasPacket`.
   * @param header gets op, flags and credit
   * @param room the most bytes of payload, at least 1
   * @returns the payload
   */
  compose(header: PacketHeader, room: number): Uint8Array {
    this.#credit.announce(header);
    header.flags = 0;
    const creditDue = this.#creditDue;
    this.#creditDue = false;
    if (this.#state === 'asking') {
      header.op = abi.VIRTIO_VSOCK_OP_REQUEST;
      this.#state = 'asked';
      this.#wait(this.#owner.patience.answer);
      return EMPTY;
    }
    if (this.#responseDue) {
      header.op = abi.VIRTIO_VSOCK_OP_RESPONSE;
      this.#responseDue = false;
      return EMPTY;
    }
    const waiting = this.#waiting;
    const length = Math.min(waiting, this.#credit.peerFree, room);
    if (this.#creditQueried || (creditDue && length === 0)) {
      header.op = abi.VIRTIO_VSOCK_OP_CREDIT_UPDATE;
      this.#creditQueried = false;
    } else if (length > 0) {
      header.op = abi.VIRTIO_VSOCK_OP_RW;
      return this.#take(length);
    } else if (waiting > 0) {
      header.op = abi.VIRTIO_VSOCK_OP_CREDIT_REQUEST;
      this.#creditAsked = true;
    } else {
      header.op = abi.VIRTIO_VSOCK_OP_SHUTDOWN;
      header.flags = this.#shutdown();
    }
    return EMPTY;
  }

  /**
   * Handles a packet of the guest.
   * @param payload copies the packet's payload, `header.len` bytes, to its argument
   */
  hear(header: PacketHeader, payload: (into: Uint8Array) => void): void {
    if (header.op === abi.VIRTIO_VSOCK_OP_RST) {
      this.#end(false);
      return;
    }
    this.#learnCredit(header);
    if (!this.#obey(header, payload)) {
      this.#stream.destroy();
      this.#end(true);
    }
  }

  /** Ends it without a packet to the guest, which is gone or was restarted. */
  destroy(): void {
    this.#end(false);
    this.#stream.destroy();
  }

  /** @returns false when the packet is not allowed now */
  #obey(header: PacketHeader, payload: (into: Uint8Array) => void): boolean {
    const open = this.#state === 'open' || this.#state === 'closing';
    switch (header.op) {
      case abi.VIRTIO_VSOCK_OP_RESPONSE:
        if (this.#state !== 'asked') return false;
        this.#established();
        return true;
      case abi.VIRTIO_VSOCK_OP_SHUTDOWN:
        if (!open && this.#state !== 'connecting') return false;
        this.#guestShut(header.flags & BOTH);
        return true;
      case abi.VIRTIO_VSOCK_OP_RW:
        return open && this.#forward(header.len, payload);
      case abi.VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return true;
      case abi.VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        this.#creditQueried = true;
        this.#owner.ready(this);
        return true;
      default:
        return false;
    }
  }

  #established(): void {
    clearTimeout(this.#timer);
    this.#state = 'open';
    this.#stream.write(`OK ${this.hostPort}\n`);
    this.#owner.ready(this);
  }

  /** Guest to host. @returns false when the guest had shut down this direction, or has no credit */
  #forward(length: number, payload: (into: Uint8Array) => void): boolean {
    if ((this.#guestShutdown & abi.VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0) return false;
    if (!this.#credit.received(length)) return false;
    if (length > 0) this.#outbox.add(length, payload);
    return true;
  }

  #taken(bytes: number): void {
    if (!this.#credit.forwarded(bytes)) return;
    this.#creditDue = true;
    this.#owner.ready(this);
  }

  #guestShut(flags: number): void {
    const before = this.#guestShutdown;
    this.#guestShutdown |= flags;
    if (this.#guestShutdown === BOTH) {
      this.#end(true);
      return;
    }
    const added = this.#guestShutdown & ~before;
    if ((added & abi.VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0) this.#outbox.end();
    // The host's program may continue to write: node cannot shut that direction down.
    if ((added & abi.VIRTIO_VSOCK_SHUTDOWN_RCV) !== 0) this.#readable();
    this.#owner.ready(this);
  }

  #readable(): void {
    if ((this.#guestShutdown & abi.VIRTIO_VSOCK_SHUTDOWN_RCV) !== 0) {
      while (this.#stream.read() !== null);
      return;
    }
    // With nothing left this makes the stream report its end.
    if (this.#stream.readableLength === 0) this.#stream.read(0);
    else this.#owner.ready(this);
  }

  /** Bytes from the host that the guest has room for. */
  get #waiting(): number {
    if ((this.#guestShutdown & abi.VIRTIO_VSOCK_SHUTDOWN_RCV) !== 0) return 0;
    return this.#stream.readableLength;
  }

  #take(length: number): Uint8Array {
    const bytes: unknown = this.#stream.read(length);
    if (this.#stream.readableLength === 0) this.#stream.read(0);
    // A stream that was destroyed meanwhile returns nothing.
    const data = bytes instanceof Uint8Array ? bytes : EMPTY;
    this.#credit.sent(data.length);
    return data;
  }

  /** Shutdown flags that the guest still has to get: our side's end, and the end of both. */
  get #shutdownFlags(): number {
    if (!this.#hostEnded) return 0;
    const guestEnded = (this.#guestShutdown & abi.VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0;
    return guestEnded ? BOTH : abi.VIRTIO_VSOCK_SHUTDOWN_SEND;
  }

  get #shutdownDue(): boolean {
    return this.#state === 'open' && this.#shutdownFlags !== this.#toldShutdown;
  }

  #shutdown(): number {
    this.#toldShutdown = this.#shutdownFlags;
    if (this.#toldShutdown === BOTH) {
      this.#state = 'closing';
      this.#wait(this.#owner.patience.close);
    }
    return this.#toldShutdown;
  }

  #learnCredit(header: PacketHeader): void {
    this.#credit.learn(header);
    if (this.#credit.peerFree === 0) return;
    this.#creditAsked = false;
    this.#owner.ready(this);
  }

  #wait(milliseconds: number): void {
    this.#timer = setTimeout(() => this.#end(true), milliseconds);
    this.#timer.unref();
  }

  /** The ports are free from now on; the host still gets what it has not read yet. */
  #end(reset: boolean): void {
    if (this.#state === 'ended') return;
    const { known } = this;
    const stream = this.#stream;
    const nothingLeft = this.#state === 'connecting' || stream.writableFinished;
    this.#state = 'ended';
    clearTimeout(this.#timer);
    this.#owner.ended(this, reset && known);
    if (this.#closed) {
      this.#owner.released(this);
      return;
    }
    if (nothingLeft || stream.destroyed) stream.destroy();
    else this.#outbox.end(() => stream.destroy());
  }
}
