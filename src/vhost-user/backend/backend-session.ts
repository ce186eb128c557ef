/** One frontend's connection to a device: what each of its messages does (vhost-user.rst). */
import { fstatSync } from 'node:fs';
import * as vhost from '../../abi/vhost.ts';
import * as abi from '../../abi/vhost-user.ts';
import { DEVICE_NEEDS_RESET } from '../../abi/virtio-pci.ts';
import { featureSet, hasFeature, VIRTIO_F_IN_ORDER } from '../../abi/virtio-ring.ts';
import { Closeable } from '../../host/cleanup-stack.ts';
import type { Fd } from '../../host/fd.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { DeniedAccess } from '../../memory/guest-memory.ts';
import { Channel } from '../channel.ts';
import {
  BACKEND_REQUESTS,
  FRONTEND_REQUESTS,
  type Message,
  protocolError,
  requestName,
} from '../message.ts';
import * as payload from '../payload.ts';
import type { BackendDevice, DeviceEvents } from './backend-device.ts';
import { FrontendMemory, MEMORY_SLOTS } from './frontend-memory.ts';
import { createInflightFile, InflightBuffer } from './inflight-buffer.ts';
import { type Vring, Vrings } from './vrings.ts';

/** How often shared memory is checked for truncation, in milliseconds. */
const TRUNCATION_INTERVAL = 200;

const PROTOCOL_FEATURES = featureSet(
  abi.VHOST_USER_PROTOCOL_F_MQ,
  abi.VHOST_USER_PROTOCOL_F_REPLY_ACK,
  abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  abi.VHOST_USER_PROTOCOL_F_CONFIG,
  abi.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  abi.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  abi.VHOST_USER_PROTOCOL_F_STATUS,
);
const INFLIGHT = featureSet(abi.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);

/** The reply to a request; undefined for one that has none of its own. */
type Reply = { readonly payload: DataView; readonly file?: Fd } | undefined;

const number = (value: bigint | number): Reply => ({ payload: payload.writeU64(value) });

/** From the start of a connection to its end. */
export class BackendSession extends Closeable implements DeviceEvents {
  readonly #device: BackendDevice;
  readonly #socket: UnixSocket;
  readonly #channel: Channel;
  readonly #memory = new FrontendMemory();
  readonly #rings: Vrings;
  readonly #watchdog: NodeJS.Timeout;
  readonly #ended: (error?: Error) => void;
  readonly #offered: bigint;
  #protocolFeatures = 0n;
  /** For requests of the backend. */
  #requests: Channel | undefined;
  #status = 0;
  #spoke = false;

  /**
   * @param socket owned from here on
   * @param ended called when the device is free again
   */
  constructor(socket: UnixSocket, device: BackendDevice, ended: (error?: Error) => void) {
    super();
    this.#device = device;
    this.#socket = socket;
    this.#ended = ended;
    this.#rings = new Vrings(device, this.#memory, (access) => this.#miss(access));
    // Rings used in order show what is in flight: all that is available and not used.
    const inOrder = hasFeature(device.features, VIRTIO_F_IN_ORDER);
    this.#offered = inOrder ? PROTOCOL_FEATURES : PROTOCOL_FEATURES | INFLIGHT;
    this.#channel = new Channel(
      socket,
      { received: FRONTEND_REQUESTS, sent: BACKEND_REQUESTS },
      {
        request: (message) => this.#request(message),
        closed: (error) => {
          void this.#end(error);
        },
      },
    );
    this.#watchdog = setInterval(() => {
      if (this.#memory.truncated || this.#rings.truncated) {
        this.#channel.fail(protocolError('it truncated memory that it had shared'));
      }
    }, TRUNCATION_INTERVAL);
    device.setSession(this);
  }

  /** True once the frontend has sent a message. */
  get spoke(): boolean {
    return this.#spoke;
  }

  /** Ends the connection; `ended` follows. */
  close(): void {
    this.#channel.close();
  }

  broken(reason: string, denied?: DeniedAccess): void {
    this.#rings.failed(reason, denied);
  }

  configChanged(): void {
    this.#requests?.send(abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  }

  async #request(message: Message): Promise<void> {
    this.#spoke = true;
    try {
      const reply = await this.#handle(message);
      if (reply === undefined) this.#channel.acknowledge(message, true);
      else this.#channel.reply(message, reply.payload, reply.file);
    } catch (error) {
      this.#channel.acknowledge(message, false);
      throw error;
    }
  }

  async #handle(message: Message): Promise<Reply> {
    const rings = this.#rings;
    switch (message.request) {
      case abi.VHOST_USER_GET_FEATURES:
        return number(this.#device.features | featureSet(abi.VHOST_USER_F_PROTOCOL_FEATURES));
      case abi.VHOST_USER_SET_FEATURES:
        return await this.#setFeatures(payload.readU64(message));
      case abi.VHOST_USER_GET_PROTOCOL_FEATURES:
        return number(this.#offered);
      case abi.VHOST_USER_SET_PROTOCOL_FEATURES:
        return this.#setProtocolFeatures(payload.readU64(message));
      case abi.VHOST_USER_SET_OWNER:
        return undefined;
      case abi.VHOST_USER_RESET_OWNER:
        // The specification recommends to disable all rings.
        return await rings.change(() => rings.disableAll());
      case abi.VHOST_USER_GET_QUEUE_NUM:
        return number(this.#device.queueNumber);
      case abi.VHOST_USER_IOTLB_MSG:
        return rings.changeIotlb(payload.readIotlb(message));
      case abi.VHOST_USER_GET_CONFIG:
        return { payload: this.#getConfig(payload.readConfigAccess(message)) };
      case abi.VHOST_USER_SET_CONFIG:
        return this.#setConfig(payload.readConfigAccess(message));
      case abi.VHOST_USER_SET_BACKEND_REQ_FD:
        return this.#openRequests(message.fds);
      case abi.VHOST_USER_RESET_DEVICE:
        return await rings.change(() => rings.reset());
      case abi.VHOST_USER_SET_STATUS:
        this.#status = Number(payload.readU64(message) & 0xffn);
        return this.#status === 0 ? await rings.change(() => rings.reset()) : undefined;
      case abi.VHOST_USER_GET_STATUS:
        return number(this.#status | (rings.isBroken ? DEVICE_NEEDS_RESET : 0));
      case abi.VHOST_USER_SET_MEM_TABLE:
      case abi.VHOST_USER_ADD_MEM_REG:
      case abi.VHOST_USER_REM_MEM_REG:
      case abi.VHOST_USER_GET_MAX_MEM_SLOTS:
        return await this.#handleMemory(message);
      case abi.VHOST_USER_GET_INFLIGHT_FD:
      case abi.VHOST_USER_SET_INFLIGHT_FD:
        return await this.#handleInflight(message);
      default:
        return await this.#handleRing(message);
    }
  }

  async #handleMemory(message: Message): Promise<Reply> {
    const memory = this.#memory;
    const rings = this.#rings;
    switch (message.request) {
      case abi.VHOST_USER_SET_MEM_TABLE: {
        const regions = payload.readMemoryTable(message);
        return await rings.change(() => memory.replace(regions, message.fds.splice(0)));
      }
      case abi.VHOST_USER_ADD_MEM_REG: {
        const region = payload.readMemoryRegion(message);
        return await rings.change(() => {
          for (const fd of message.fds.splice(0)) memory.add(region, fd);
        });
      }
      case abi.VHOST_USER_REM_MEM_REG: {
        const region = payload.readMemoryRegion(message);
        return await rings.change(() => memory.remove(region));
      }
      default:
        return number(MEMORY_SLOTS);
    }
  }

  async #handleInflight(message: Message): Promise<Reply> {
    if ((this.#protocolFeatures & INFLIGHT) === 0n) throw notNegotiated(message);
    const area = payload.readInflight(message);
    const rings = this.#device.queueSizes.length;
    if (message.request === abi.VHOST_USER_GET_INFLIGHT_FD) {
      const made = createInflightFile(area, rings);
      return { payload: payload.writeInflight(made.area), file: made.file };
    }
    const [fd] = message.fds;
    if (fd === undefined) return undefined;
    const inflight = new InflightBuffer(area, fd.fd, rings);
    return await this.#rings.change(() => this.#rings.setInflight(inflight));
  }

  async #handleRing(message: Message): Promise<Reply> {
    switch (message.request) {
      case abi.VHOST_USER_SET_VRING_ADDR: {
        const address = payload.readVringAddress(message);
        const ring = this.#rings.ring(address.index);
        return await this.#rings.change(() => {
          ring.address = address;
        });
      }
      case abi.VHOST_USER_SET_VRING_KICK:
      case abi.VHOST_USER_SET_VRING_CALL:
      case abi.VHOST_USER_SET_VRING_ERR: {
        const { index, fd } = payload.readVringFd(message);
        return await this.#setRingFd(message.request, index, fd);
      }
      case abi.VHOST_USER_SET_VRING_NUM:
      case abi.VHOST_USER_SET_VRING_BASE:
      case abi.VHOST_USER_GET_VRING_BASE:
      case abi.VHOST_USER_SET_VRING_ENABLE: {
        const { index, num } = payload.readVringNumber(message);
        return await this.#handleRingState(message, this.#rings.ring(index), num);
      }
      default:
        throw notNegotiated(message);
    }
  }

  /** @param fd owned from here on */
  async #setRingFd(request: number, index: number, fd: Fd | undefined): Promise<undefined> {
    let ring: Vring;
    try {
      ring = this.#rings.ring(index);
    } catch (error) {
      fd?.close();
      throw error;
    }
    if (request === abi.VHOST_USER_SET_VRING_CALL) ring.setCall(fd);
    else if (request === abi.VHOST_USER_SET_VRING_ERR) ring.setError(fd);
    else await this.#rings.change(() => ring.setKick(fd));
  }

  async #handleRingState(message: Message, ring: Vring, num: number): Promise<Reply> {
    const { index } = ring;
    switch (message.request) {
      case abi.VHOST_USER_GET_VRING_BASE: {
        await this.#rings.change(() => this.#rings.stop(ring));
        return { payload: payload.writeVringNumber({ index, num: this.#rings.base(ring) }) };
      }
      case abi.VHOST_USER_SET_VRING_NUM: {
        const most = this.#device.queueSizes[index] ?? 0;
        if (num < 1 || num > most) {
          throw protocolError(`ring ${index} with ${num} descriptors, more than its ${most}`);
        }
        return await this.#rings.change(() => {
          ring.size = num;
        });
      }
      case abi.VHOST_USER_SET_VRING_BASE:
        return await this.#rings.change(() => {
          ring.base = num;
          ring.state = undefined;
        });
      default:
        if (num > 1) throw protocolError(`ring ${index} enabled with ${num}, not 0 or 1`);
        if (ring.enabled === (num === 1)) return undefined;
        return await this.#rings.change(() => {
          ring.enabled = num === 1;
        });
    }
  }

  async #setFeatures(features: bigint): Promise<undefined> {
    const protocol = featureSet(abi.VHOST_USER_F_PROTOCOL_FEATURES);
    const foreign = features & ~(this.#device.features | protocol);
    if (foreign !== 0n) {
      throw protocolError(`feature bits 0x${foreign.toString(16)}, which are not offered`);
    }
    await this.#rings.change(() => {
      this.#rings.enabling = hasFeature(features, abi.VHOST_USER_F_PROTOCOL_FEATURES);
      this.#rings.setFeatures(features & ~protocol);
    });
  }

  #setProtocolFeatures(features: bigint): undefined {
    const foreign = features & ~this.#offered;
    if (foreign !== 0n) {
      throw protocolError(`protocol features 0x${foreign.toString(16)}, which are not offered`);
    }
    this.#protocolFeatures = features;
  }

  /** Bytes past the end of what the device has read as 0: frontends ask for the whole struct. */
  #getConfig(access: payload.ConfigAccess): DataView {
    const config = this.#device.readConfig().subarray(access.offset);
    const bytes = new Uint8Array(access.bytes.length);
    bytes.set(config.subarray(0, bytes.length));
    return payload.writeConfigAccess({ ...access, bytes });
  }

  #setConfig({ offset, bytes, liveMigration }: payload.ConfigAccess): undefined {
    // The configuration of a migrated guest is this device's own anyway.
    if (liveMigration) return;
    if (this.#device.writeConfig(offset, bytes)) return;
    throw protocolError(`configuration bytes from ${offset} are read-only`);
  }

  /** Asks for an address. @returns false when it is known that the frontend does not give it */
  async #miss({ address: iova, write }: DeniedAccess): Promise<boolean> {
    const requests = this.#requests;
    if (requests === undefined) return false;
    const { VHOST_IOTLB_MISS: type, VHOST_ACCESS_WO, VHOST_ACCESS_RO } = vhost;
    const perm = write ? VHOST_ACCESS_WO : VHOST_ACCESS_RO;
    const view = payload.writeIotlb({ type, iova, size: 0, uaddr: 0, perm });
    const isAnswered = hasFeature(this.#protocolFeatures, abi.VHOST_USER_PROTOCOL_F_REPLY_ACK);
    if (!isAnswered) {
      requests.send(abi.VHOST_USER_BACKEND_IOTLB_MSG, 0, view);
      return true;
    }
    const { VHOST_USER_BACKEND_IOTLB_MSG, VHOST_USER_NEED_REPLY_MASK } = abi;
    const reply = await requests.call(
      VHOST_USER_BACKEND_IOTLB_MSG,
      VHOST_USER_NEED_REPLY_MASK,
      view,
    );
    for (const fd of reply.fds.splice(0)) fd.close();
    return payload.readU64(reply) === 0n;
  }

  #openRequests(fds: Fd[]): undefined {
    const fd = fds.shift();
    if (fd === undefined) return;
    if (!fstatSync(fd.fd).isSocket()) {
      fd.close();
      throw protocolError('the channel for requests of the backend is not a socket');
    }
    const requests = new UnixSocket(fd.release());
    // With the other end of this connection in our hands, it would outlive the frontend.
    if (requests.leadsTo(this.#socket)) {
      requests.close();
      throw protocolError('the channel for requests of the backend leads back to it');
    }
    const before = this.#requests;
    this.#requests = new Channel(
      requests,
      { received: new Map(), sent: BACKEND_REQUESTS },
      { request: () => {}, closed: () => {} },
    );
    before?.close();
    this.#rings.asking = true;
  }

  async #end(error: Error | undefined): Promise<void> {
    clearInterval(this.#watchdog);
    this.#requests?.close();
    try {
      await this.#rings.close();
    } finally {
      this.#memory.close();
      await this.#device.release();
      this.#ended(error);
    }
  }
}

/** The error for a request of a feature that the frontend did not negotiate. */
function notNegotiated({ request }: Message): Error {
  return protocolError(`${requestName(FRONTEND_REQUESTS, request)} was not negotiated`);
}
