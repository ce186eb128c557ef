/**
 * All connections of a socket device (virtio 1.3 §5.10.6): finds the one that a packet is for, opens
 * new ones, and chooses the guest's next packet. It outlives the data half.
 */
import type { Duplex } from 'node:stream';
import * as abi from '../../../abi/virtio-vsock.ts';
import { InternalError } from '../../../host/errors.ts';
import { type ConnectionOwner, type Patience, VsockConnection } from './vsock-connection.ts';
import type { PacketHeader } from './vsock-packet.ts';

/** The most connections, including those whose last bytes the host has not read yet. */
export const MAX_CONNECTIONS = 1024;
/** RST packets that wait for a buffer; above it the guest's own packets wait too. */
const RESETS_HIGH = 256;
/** Ports of the host's ends of connections that the host opened: from here to 2^32 - 2. */
const FIRST_HOST_PORT = 2 ** 30;
const LAST_HOST_PORT = 2 ** 32 - 2;
const EMPTY = new Uint8Array(0);

/** The host side's services. */
export interface HostSide {
  /**
   * Connects to the host's program that listens on a port. The stream emits 'error' when there is
   * none.
   * @param accepted called once it did
   */
  connect(port: number, accepted: () => void): Duplex;
}

/** An RST for a connection that is gone, or never existed. */
interface Reset {
  readonly cid: number;
  readonly hostPort: number;
  readonly guestPort: number;
  readonly type: number;
}

/** See the file. */
export class VsockSwitch implements ConnectionOwner {
  readonly patience: Patience;
  /** An event that was not sent to the guest yet: connections were lost (§5.10.6.7). */
  transportReset = false;
  /** Called when there may be a packet for the guest, from the event loop. */
  wake: () => void = () => {};
  readonly #guestCid: number;
  readonly #host: HostSide | undefined;
  /** By both ports. */
  readonly #byPorts = new Map<string, VsockConnection>();
  readonly #all = new Set<VsockConnection>();
  /** Those that may have a packet for the guest, longest waiting first. */
  readonly #ready = new Set<VsockConnection>();
  #resets: Reset[] = [];
  #nextHostPort = FIRST_HOST_PORT;
  /** Whether packets are processed here; undefined after a reset. */
  #here: boolean | undefined;

  /** @param host undefined when there is no way to the host's programs: each connection is refused */
  constructor(guestCid: number, host: HostSide | undefined, patience: Patience) {
    this.#guestCid = guestCid;
    this.#host = host;
    this.patience = patience;
  }

  /** Connects a program of the host to a port of the guest. Without room the stream is closed. */
  connectGuest(stream: Duplex, guestPort: number): void {
    if (this.#all.size >= MAX_CONNECTIONS || this.#here === false) {
      stream.destroy();
      return;
    }
    while (this.#byPorts.has(keyOf(guestPort, this.#nextHostPort))) this.#advance();
    const hostPort = this.#nextHostPort;
    this.#advance();
    this.#add(new VsockConnection(this, stream, { guestPort, hostPort }));
  }

  /** True when packets of the guest have to wait (§5.10.6.1): too many replies wait for buffers already. */
  get isFull(): boolean {
    return this.#resets.length >= RESETS_HIGH;
  }

  /**
   * Handles a packet of the guest.
   * @param streams whether stream sockets were negotiated
   * @param payload copies its payload to its argument
   */
  hear(header: PacketHeader, streams: boolean, payload: (into: Uint8Array) => void): void {
    // §5.10.6.4: packets from any other CID do not belong here, and get no reply.
    if (header.srcCid !== this.#guestCid) return;
    if (header.dstCid !== abi.VMADDR_CID_HOST) {
      this.#refuse(header);
      return;
    }
    if (header.type !== abi.VIRTIO_VSOCK_TYPE_STREAM || !streams) {
      this.#refuse(header);
      return;
    }
    const connection = this.#byPorts.get(keyOf(header.srcPort, header.dstPort));
    if (connection !== undefined) connection.hear(header, payload);
    else if (header.op === abi.VIRTIO_VSOCK_OP_REQUEST) this.#connectHost(header);
    else this.#refuse(header);
  }

  /** Whether `compose` has a packet. */
  get hasPacket(): boolean {
    if (this.#resets.length > 0) return true;
    for (const connection of this.#ready) {
      if (connection.hasPacket) return true;
      this.#ready.delete(connection);
    }
    return false;
  }

  /**
   * Composes the next packet for the guest: connections take turns. Only when `hasPacket`.
   * @param room the most bytes of payload, at least 1
   * @returns the payload
   */
  compose(header: PacketHeader, room: number): Uint8Array {
    const reset = this.#resets.shift();
    if (reset !== undefined) {
      header.srcCid = reset.cid;
      header.srcPort = reset.hostPort;
      header.dstPort = reset.guestPort;
      header.type = reset.type;
      header.op = abi.VIRTIO_VSOCK_OP_RST;
      header.flags = 0;
      header.bufAlloc = 0;
      header.fwdCnt = 0;
      return this.#address(header, EMPTY);
    }
    const [connection] = this.#ready;
    if (connection === undefined) throw new InternalError('no vsock packet waits');
    header.srcCid = abi.VMADDR_CID_HOST;
    header.srcPort = connection.hostPort;
    header.dstPort = connection.guestPort;
    header.type = abi.VIRTIO_VSOCK_TYPE_STREAM;
    const payload = connection.compose(header, room);
    this.#ready.delete(connection);
    if (connection.hasPacket) this.#ready.add(connection);
    return this.#address(header, payload);
  }

  /**
   * Packets are processed here from now on, or elsewhere. The guest's connections are known only
   * where they were processed before, and are lost with it.
   */
  serve(here: boolean): void {
    if (this.#here !== undefined && this.#here !== here) this.transportReset = true;
    this.#here = here;
    if (!here) this.close();
  }

  /** The guest has reset its state. Connections that were not announced to it wait on. */
  reset(): void {
    this.#here = undefined;
    this.transportReset = false;
    this.drop();
  }

  /** Ends the connections known to the guest. */
  drop(): void {
    for (const connection of [...this.#all]) {
      if (connection.known) connection.destroy();
    }
    this.#resets = [];
  }

  /** Ends every connection. */
  close(): void {
    for (const connection of [...this.#all]) connection.destroy();
    this.#resets = [];
  }

  ready(connection: VsockConnection): void {
    this.#ready.add(connection);
    this.wake();
  }

  ended(connection: VsockConnection, reset: boolean): void {
    const { guestPort, hostPort } = connection;
    this.#byPorts.delete(keyOf(guestPort, hostPort));
    this.#ready.delete(connection);
    if (!reset) return;
    this.#resets.push({
      cid: abi.VMADDR_CID_HOST,
      hostPort,
      guestPort,
      type: abi.VIRTIO_VSOCK_TYPE_STREAM,
    });
    this.wake();
  }

  released(connection: VsockConnection): void {
    this.#all.delete(connection);
  }

  #connectHost(header: PacketHeader): void {
    if (this.#all.size >= MAX_CONNECTIONS || this.#host === undefined) {
      this.#refuse(header);
      return;
    }
    const ports = { guestPort: header.srcPort, hostPort: header.dstPort };
    const stream = this.#host.connect(header.dstPort, () => connection.accepted());
    const connection = new VsockConnection(this, stream, ports, header);
    this.#add(connection);
  }

  #add(connection: VsockConnection): void {
    this.#all.add(connection);
    this.#byPorts.set(keyOf(connection.guestPort, connection.hostPort), connection);
    this.ready(connection);
  }

  /** Answers a packet that belongs to no connection; an RST is never answered. */
  #refuse(header: PacketHeader): void {
    if (header.op === abi.VIRTIO_VSOCK_OP_RST) return;
    this.#resets.push({
      cid: header.dstCid,
      hostPort: header.dstPort,
      guestPort: header.srcPort,
      type: header.type,
    });
  }

  #address(header: PacketHeader, payload: Uint8Array): Uint8Array {
    header.dstCid = this.#guestCid;
    header.len = payload.length;
    return payload;
  }

  #advance(): void {
    this.#nextHostPort =
      this.#nextHostPort === LAST_HOST_PORT ? FIRST_HOST_PORT : this.#nextHostPort + 1;
  }
}

function keyOf(guestPort: number, hostPort: number): string {
  return `${guestPort}:${hostPort}`;
}
