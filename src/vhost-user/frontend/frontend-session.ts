/**
 * A connection to one backend: what a frontend negotiates, and how it passes on memory and rings
 * (vhost-user.rst). Any failure ends the session, and all later requests fail with it.
 */
import * as abi from '../../abi/vhost-user.ts';
import { FEATURES_OK } from '../../abi/virtio-pci.ts';
import {
  featureSet,
  hasFeature,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
} from '../../abi/virtio-ring.ts';
import { Closeable } from '../../host/cleanup-stack.ts';
import { InternalError, messageOf, PeerError } from '../../host/errors.ts';
import type { Fd } from '../../host/fd.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import type { BackendOffer } from '../../virtio/frontend-device.ts';
import { locateRings } from '../../virtio/queue/create-virtqueue.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../../virtio/queue/virtqueue.ts';
import { Channel } from '../channel.ts';
import {
  BACKEND_REQUESTS,
  FRONTEND_REQUESTS,
  type Message,
  protocolError,
  requestName,
} from '../message.ts';
import * as payload from '../payload.ts';

/** The protocol features of this frontend. */
const PROTOCOL_FEATURES = featureSet(
  abi.VHOST_USER_PROTOCOL_F_MQ,
  abi.VHOST_USER_PROTOCOL_F_REPLY_ACK,
  abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  abi.VHOST_USER_PROTOCOL_F_CONFIG,
  abi.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  abi.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  abi.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  abi.VHOST_USER_PROTOCOL_F_STATUS,
);
const NO_FDS: readonly number[] = [];
const U64_SIZE = 8;
const VRING_STATE_SIZE = 8;
const CONFIG_HEADER_SIZE = 12;
const INFLIGHT_SIZE = 20;

/** The backend closed the connection or crashed, and may come back. */
export class BackendGone extends PeerError {}

/** What a session reports to its owner, once it is open. */
export interface SessionEvents {
  /** Called once, unless the owner closes the session. */
  ended(error: PeerError): void;
  /** The backend changed the device's configuration. */
  configChanged(): void;
  /** The backend asks for an address behind the IOMMU, or met one that it may not use. @returns whether it has it */
  askedIotlb(message: IotlbMessage): Promise<boolean>;
}

/** The inflight buffer a backend made. The file is its holder's; nothing in it is read here. */
export interface InflightFile {
  readonly file: Fd;
  readonly area: payload.InflightArea;
}

/** Owns the socket. */
export class FrontendSession extends Closeable implements BackendOffer {
  /** What the backend offers: virtio feature bits, and VHOST_USER_F_PROTOCOL_FEATURES. */
  features = 0n;
  /** The most queues (network: queue pairs) that the backend serves, if it reports them. */
  maxQueues: number | undefined;
  #protocolFeatures = 0n;
  readonly #channel: Channel;
  /** For requests of the backend. */
  #requests: Channel | undefined;
  readonly #timeoutMs: number;
  readonly #events: SessionEvents;
  #isOpen = false;
  #error: PeerError | undefined;

  /**
   * Negotiates on a new connection.
   * @param socket owned from here on
   * @param timeoutMs for each reply
   * @throws PeerError
   */
  static async open(
    socket: UnixSocket,
    timeoutMs: number,
    events: SessionEvents,
  ): Promise<FrontendSession> {
    const session = new FrontendSession(socket, timeoutMs, events);
    try {
      await session.#negotiate();
      session.#isOpen = true;
      return session;
    } catch (error) {
      session.close();
      throw error;
    }
  }

  private constructor(socket: UnixSocket, timeoutMs: number, events: SessionEvents) {
    super();
    this.#timeoutMs = timeoutMs;
    this.#events = events;
    const rules = { received: new Map(), sent: FRONTEND_REQUESTS };
    this.#channel = new Channel(socket, rules, {
      request: () => {
        throw new InternalError('a request arrived on a channel without any');
      },
      closed: (error) => this.fail(error === undefined ? gone() : asPeerError(error)),
    });
  }

  get hasConfig(): boolean {
    return this.has(abi.VHOST_USER_PROTOCOL_F_CONFIG);
  }

  /** Whether the backend can follow an IOMMU. */
  get hasIotlb(): boolean {
    return (
      hasFeature(this.features, VIRTIO_F_ACCESS_PLATFORM) &&
      this.has(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ) &&
      this.has(abi.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    );
  }

  /** Whether a protocol feature was negotiated. */
  has(protocolFeature: number): boolean {
    return hasFeature(this.#protocolFeatures, protocolFeature);
  }

  /** Ends the session. @returns the error that ended it, which may be an earlier one */
  fail(error: PeerError): PeerError {
    if (this.#error !== undefined) return this.#error;
    this.#error = error;
    this.#closeChannels();
    if (this.#isOpen) this.#events.ended(error);
    return error;
  }

  close(): void {
    this.#error ??= gone();
    this.#closeChannels();
  }

  /** Resolves when the backend has handled all requests. @throws PeerError */
  async sync(): Promise<void> {
    // Without REPLY_ACK, a request that always has a reply shows it.
    if (this.has(abi.VHOST_USER_PROTOCOL_F_REPLY_ACK)) return;
    await this.#getU64(abi.VHOST_USER_GET_FEATURES);
  }

  /** @param features all that were negotiated with the driver @throws PeerError */
  async setFeatures(features: bigint): Promise<void> {
    await this.#set(abi.VHOST_USER_SET_FEATURES, payload.writeU64(features));
  }

  /** Passes the device status on, where the backend takes it. @throws PeerError */
  async setStatus(status: number): Promise<void> {
    if (!this.has(abi.VHOST_USER_PROTOCOL_F_STATUS)) return;
    await this.#set(abi.VHOST_USER_SET_STATUS, payload.writeU64(status));
    if (status === 0) return;
    const accepted = Number(await this.#getU64(abi.VHOST_USER_GET_STATUS));
    if ((accepted & FEATURES_OK) === 0) throw this.#broke('it rejected features that it offered');
  }

  /** Has the backend reset the device, as far as it can. @throws PeerError */
  async reset(): Promise<void> {
    const requests: Promise<void>[] = [];
    if (this.has(abi.VHOST_USER_PROTOCOL_F_RESET_DEVICE)) {
      requests.push(this.#set(abi.VHOST_USER_RESET_DEVICE));
    }
    requests.push(this.setStatus(0));
    await Promise.all(requests);
  }

  /** The first bytes of the configuration space. @throws PeerError */
  async getConfig(length: number): Promise<Uint8Array> {
    if (!this.has(abi.VHOST_USER_PROTOCOL_F_CONFIG)) {
      throw this.#broke('it has no configuration space, which its device needs');
    }
    const access = { offset: 0, liveMigration: false, bytes: new Uint8Array(length) };
    const reply = await this.#call(abi.VHOST_USER_GET_CONFIG, 0, payload.writeConfigAccess(access));
    if (reply.payload.byteLength === 0 && reply.fds.length === 0) {
      throw this.#broke(`it does not have ${length} bytes of configuration`);
    }
    this.#checkReply(reply, CONFIG_HEADER_SIZE + length);
    const { offset, bytes } = payload.readConfigAccess(reply);
    if (offset === 0) return bytes.slice();
    throw this.#broke(`its reply to GET_CONFIG is from offset ${offset}`);
  }

  /** Passes on what the driver wrote. @throws PeerError */
  async setConfig(offset: number, bytes: Uint8Array): Promise<void> {
    if (!this.has(abi.VHOST_USER_PROTOCOL_F_CONFIG)) return;
    const access = { offset, liveMigration: false, bytes };
    await this.#set(abi.VHOST_USER_SET_CONFIG, payload.writeConfigAccess(access));
  }

  /** Has the backend make an inflight buffer. @throws PeerError */
  async getInflight(queues: number, queueSize: number): Promise<InflightFile> {
    const wanted = payload.writeInflight({ mmapSize: 0, mmapOffset: 0, queues, queueSize });
    const reply = await this.#call(abi.VHOST_USER_GET_INFLIGHT_FD, 0, wanted);
    const [file, ...others] = reply.fds.splice(0);
    for (const fd of others) fd.close();
    if (file !== undefined && others.length === 0 && reply.payload.byteLength >= INFLIGHT_SIZE) {
      return { file, area: { ...payload.readInflight(reply), queues, queueSize } };
    }
    file?.close();
    throw this.#broke('its reply to GET_INFLIGHT_FD lacks an area or its file descriptor');
  }

  /** @throws PeerError */
  async setInflight({ file, area }: InflightFile): Promise<void> {
    await this.#set(abi.VHOST_USER_SET_INFLIGHT_FD, payload.writeInflight(area), [file.fd]);
  }

  /**
   * Changes what the backend knows of an IOMMU; resolves when it has acknowledged that.
   * @param timeoutMs for that
   * @throws PeerError
   */
  async changeIotlb(message: IotlbMessage, timeoutMs: number): Promise<void> {
    const limit = Math.min(timeoutMs, this.#timeoutMs);
    await this.#set(abi.VHOST_USER_IOTLB_MSG, payload.writeIotlb(message), NO_FDS, limit);
  }

  /** Has the backend map guest RAM; our addresses in it serve as user addresses. @throws PeerError */
  async shareMemory(memory: GuestMemory): Promise<void> {
    const { fd } = memory.share;
    const regions = memory.regions.map(({ gpa, size, offset }) => ({
      gpa,
      size,
      userAddress: memory.address + offset,
      mmapOffset: offset,
    }));
    if (!this.has(abi.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
      const fds = regions.map(() => fd);
      await this.#set(abi.VHOST_USER_SET_MEM_TABLE, payload.writeMemoryTable(regions), fds);
      return;
    }
    const slots = await this.#getU64(abi.VHOST_USER_GET_MAX_MEM_SLOTS);
    if (slots < BigInt(regions.length)) {
      throw this.#broke(`it has ${slots} memory slots, guest RAM has ${regions.length} regions`);
    }
    for (const region of regions) {
      await this.#set(abi.VHOST_USER_ADD_MEM_REG, payload.writeMemoryRegion(region), [fd]);
    }
  }

  /**
   * Sets a ring up, which is then enabled or not by `enableRing`.
   * @param memory behind an IOMMU: the device's addresses, which the backend gets as they are
   * @param features all that were negotiated
   * @param errorFd eventfd that the backend signals when it cannot continue
   * @throws PeerError when the driver placed the queue outside of RAM, or the backend refuses
   */
  async setUpRing(
    memory: GuestMemory,
    config: QueueConfig,
    features: bigint,
    errorFd: number,
  ): Promise<void> {
    const { index, size, callFd, kickFd } = config;
    const place = locateRings(memory, config, features);
    const base = vringBase(config.state, hasFeature(features, VIRTIO_F_RING_PACKED));
    const isTranslated = hasFeature(features, VIRTIO_F_ACCESS_PLATFORM);
    const start = isTranslated ? 0 : memory.address;
    const address = {
      index,
      flags: 0,
      descriptor: start + place.descriptor,
      used: start + place.device,
      available: start + place.driver,
    };
    const setFd = (request: number, fd: number): Promise<void> =>
      this.#set(request, payload.writeVringFd(index, fd >= 0), fd < 0 ? NO_FDS : [fd]);
    await this.#set(abi.VHOST_USER_SET_VRING_NUM, payload.writeVringNumber({ index, num: size }));
    await this.#set(abi.VHOST_USER_SET_VRING_BASE, payload.writeVringNumber({ index, num: base }));
    await this.#set(abi.VHOST_USER_SET_VRING_ADDR, payload.writeVringAddress(address));
    await setFd(abi.VHOST_USER_SET_VRING_ERR, errorFd);
    await setFd(abi.VHOST_USER_SET_VRING_CALL, callFd);
    await setFd(abi.VHOST_USER_SET_VRING_KICK, kickFd);
  }

  /** Enables or disables a ring, where that is negotiated. @throws PeerError */
  async enableRing(index: number, enabled: boolean): Promise<void> {
    if (!hasFeature(this.features, abi.VHOST_USER_F_PROTOCOL_FEATURES)) return;
    const state = payload.writeVringNumber({ index, num: enabled ? 1 : 0 });
    await this.#set(abi.VHOST_USER_SET_VRING_ENABLE, state);
  }

  /** Stops a ring. @returns where it stopped @throws PeerError */
  async stopRing(memory: GuestMemory, config: QueueConfig, features: bigint): Promise<VringState> {
    const { index } = config;
    const asked = payload.writeVringNumber({ index, num: 0 });
    const reply = await this.#call(abi.VHOST_USER_GET_VRING_BASE, 0, asked);
    this.#checkReply(reply, VRING_STATE_SIZE);
    const stopped = payload.readVringNumber(reply);
    if (stopped.index !== index) {
      throw this.#broke(`its reply to GET_VRING_BASE is for ring ${stopped.index}, not ${index}`);
    }
    const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    return vringState(stopped.num, packed, memory, locateRings(memory, config, features).device);
  }

  async #negotiate(): Promise<void> {
    this.features = await this.#getU64(abi.VHOST_USER_GET_FEATURES);
    if (hasFeature(this.features, abi.VHOST_USER_F_PROTOCOL_FEATURES)) {
      const offered = await this.#getU64(abi.VHOST_USER_GET_PROTOCOL_FEATURES);
      const taken = offered & PROTOCOL_FEATURES;
      // Not yet in force for this request itself.
      await this.#set(abi.VHOST_USER_SET_PROTOCOL_FEATURES, payload.writeU64(taken));
      this.#protocolFeatures = taken;
    }
    await this.#set(abi.VHOST_USER_SET_OWNER);
    if (this.has(abi.VHOST_USER_PROTOCOL_F_MQ)) {
      this.maxQueues = Number(await this.#getU64(abi.VHOST_USER_GET_QUEUE_NUM));
    }
    if (this.has(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ)) await this.#openRequests();
  }

  async #openRequests(): Promise<void> {
    const [ours, theirs] = UnixSocket.pair();
    const rules = { received: BACKEND_REQUESTS, sent: new Map() };
    const requests: Channel = new Channel(ours, rules, {
      request: (message) => {
        if (message.request === abi.VHOST_USER_BACKEND_IOTLB_MSG) {
          return this.#askedIotlb(requests, message);
        }
        this.#events.configChanged();
        requests.acknowledge(message, true);
        return undefined;
      },
      // A backend may close this channel alone.
      closed: (error) => {
        if (error !== undefined) this.fail(asPeerError(error));
      },
    });
    this.#requests = requests;
    try {
      await this.#set(abi.VHOST_USER_SET_BACKEND_REQ_FD, undefined, [theirs.fd]);
    } finally {
      theirs.close();
    }
  }

  /** The next request waits: a backend gets no more answers at a time than it reads. */
  async #askedIotlb(requests: Channel, message: Message): Promise<void> {
    requests.acknowledge(message, await this.#events.askedIotlb(payload.readIotlb(message)));
  }

  /**
   * Sends a request without a reply of its own; resolves when the backend acknowledges it, with
   * REPLY_ACK.
   * @param fds stay the caller's
   * @param timeoutMs for that
   * @throws PeerError when it is refused
   */
  async #set(
    request: number,
    view?: DataView,
    fds: readonly number[] = NO_FDS,
    timeoutMs = this.#timeoutMs,
  ): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    if (!this.has(abi.VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
      this.#channel.send(request, 0, view, fds);
      return;
    }
    const code = this.#readU64(
      await this.#call(request, abi.VHOST_USER_NEED_REPLY_MASK, view, fds, timeoutMs),
    );
    if (code !== 0n) throw this.#broke(`it refused ${nameOf(request)} (${code})`);
  }

  async #getU64(request: number): Promise<bigint> {
    return this.#readU64(await this.#call(request));
  }

  #readU64(reply: Message): bigint {
    this.#checkReply(reply, U64_SIZE);
    return payload.readU64(reply);
  }

  /** @throws PeerError unless the reply has this many bytes, and no descriptors */
  #checkReply({ request, payload: view, fds }: Message, size: number): void {
    const count = fds.length;
    for (const fd of fds.splice(0)) fd.close();
    if (count === 0 && view.byteLength === size) return;
    const got = `${view.byteLength} bytes and ${count} file descriptors`;
    throw this.#broke(`its reply to ${nameOf(request)} has ${got}, not ${size} bytes`);
  }

  /** The descriptors of the reply are the caller's. */
  async #call(
    request: number,
    flags = 0,
    view?: DataView,
    fds: readonly number[] = NO_FDS,
    timeoutMs = this.#timeoutMs,
  ): Promise<Message> {
    if (this.#error !== undefined) throw this.#error;
    // Keeps the process alive: a caller is waiting.
    const timer = setTimeout(() => {
      const late = `the backend left ${nameOf(request)} unanswered for ${timeoutMs} ms`;
      this.fail(new PeerError('E_VHOST_USER_TIMEOUT', late));
    }, timeoutMs);
    try {
      return await this.#channel.call(request, flags, view, fds);
    } catch (error) {
      throw this.#error ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  #broke(why: string): PeerError {
    return this.fail(protocolError(why));
  }

  #closeChannels(): void {
    this.#channel.close();
    this.#requests?.close();
  }
}

const nameOf = (request: number): string => requestName(FRONTEND_REQUESTS, request);

const gone = (): BackendGone =>
  new BackendGone('E_VHOST_USER_GONE', 'the backend closed the connection');

const asPeerError = (error: Error): PeerError =>
  error instanceof PeerError ? error : protocolError(messageOf(error));
