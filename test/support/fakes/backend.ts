/** A backend scripted by a test, in the test's own process. It serves no queue. */
import { fstatSync } from 'node:fs';
import * as abi from '../../../src/abi/vhost-user.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { Fd } from '../../../src/host/fd.ts';
import { ListenPath } from '../../../src/host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../../src/host/main-loop.ts';
import * as sys from '../../../src/host/syscall.ts';
import { UnixSocket } from '../../../src/host/unix-socket.ts';
import type { IotlbMessage } from '../../../src/vhost/iotlb-message.ts';
import { Channel } from '../../../src/vhost-user/channel.ts';
import {
  BACKEND_REQUESTS,
  FRONTEND_REQUESTS,
  type Message,
  requestName,
} from '../../../src/vhost-user/message.ts';
import * as payload from '../../../src/vhost-user/payload.ts';

/** What a test has it do instead of answering. */
export type Act = (message: Message, channel: Channel) => void;

const ALL_PROTOCOL_FEATURES = featureSet(
  abi.VHOST_USER_PROTOCOL_F_MQ,
  abi.VHOST_USER_PROTOCOL_F_REPLY_ACK,
  abi.VHOST_USER_PROTOCOL_F_CONFIG,
);

/** Listens at a path. */
export class FakeBackend implements Disposable {
  features = featureSet(VIRTIO_F_VERSION_1, abi.VHOST_USER_F_PROTOCOL_FEATURES);
  protocolFeatures = ALL_PROTOCOL_FEATURES;
  queues = 2;
  slots = 8;
  status = 0;
  config: Uint8Array = new Uint8Array(0);
  /** What it does by request, instead of what is right. */
  readonly acts = new Map<number, Act>();
  /** Requests by name, in order. */
  readonly calls: string[] = [];
  readonly bases = new Map<number, number>();
  readonly addresses: payload.VringAddress[] = [];
  regions: payload.MemoryRegion[] = [];
  acked = 0n;
  /** Changes of its IOTLB, in order. */
  readonly iotlb: IotlbMessage[] = [];
  written: payload.ConfigAccess | undefined;
  /** Inode of the record that it was handed last. */
  inflight = 0;
  connections = 0;
  channel: Channel | undefined;
  /** Bypasses the channel, for bytes that are no message. */
  socket: UnixSocket | undefined;
  /** To the frontend. */
  requests: Channel | undefined;
  readonly #path: string;
  #listening: ListenPath | undefined;
  #fd = -1;
  #watch: LoopWatch | undefined;

  constructor(path: string, listen = true) {
    this.#path = path;
    if (listen) this.listen();
  }

  listen(): void {
    this.#listening = new ListenPath(this.#path);
    this.#fd = this.#listening.takeFd();
    this.#watch = new LoopWatch(this.#fd, LOOP_READABLE, () => {
      const socket = UnixSocket.accept(this.#fd);
      if (socket !== undefined) this.serve(socket);
    });
  }

  /** Connects to a frontend that listens. */
  call(): void {
    this.serve(UnixSocket.connect(this.#path));
  }

  serve(socket: UnixSocket): void {
    this.connections++;
    const rules = { received: FRONTEND_REQUESTS, sent: BACKEND_REQUESTS };
    const channel = new Channel(socket, rules, {
      request: (message) => {
        this.calls.push(requestName(FRONTEND_REQUESTS, message.request));
        const act = this.acts.get(message.request);
        if (act === undefined) this.answer(message, channel);
        else act(message, channel);
      },
      closed: () => {
        this.requests?.close();
        this.requests = undefined;
      },
    });
    this.channel = channel;
    this.socket = socket;
  }

  /** Dies, as far as the other side can see. */
  die(): void {
    this.channel?.close();
    this.#watch?.close();
    this.#listening?.close();
    if (this.#fd >= 0) sys.close(this.#fd);
    this.#fd = -1;
    this.#watch = undefined;
    this.#listening = undefined;
  }

  take(): string[] {
    return this.calls.splice(0);
  }

  [Symbol.dispose](): void {
    this.die();
  }

  /** Does what is right. */
  answer(message: Message, channel: Channel): void {
    const reply = (view: DataView): void => channel.reply(message, view);
    switch (message.request) {
      case abi.VHOST_USER_GET_FEATURES:
        reply(payload.writeU64(this.features));
        return;
      case abi.VHOST_USER_GET_PROTOCOL_FEATURES:
        reply(payload.writeU64(this.protocolFeatures));
        return;
      case abi.VHOST_USER_GET_QUEUE_NUM:
        reply(payload.writeU64(this.queues));
        return;
      case abi.VHOST_USER_GET_MAX_MEM_SLOTS:
        reply(payload.writeU64(this.slots));
        return;
      case abi.VHOST_USER_GET_STATUS:
        reply(payload.writeU64(this.status));
        return;
      case abi.VHOST_USER_GET_VRING_BASE: {
        const { index } = payload.readVringNumber(message);
        reply(payload.writeVringNumber({ index, num: this.bases.get(index) ?? 0 }));
        return;
      }
      case abi.VHOST_USER_GET_CONFIG: {
        const { bytes } = payload.readConfigAccess(message);
        const answer = this.config.subarray(0, bytes.length);
        reply(payload.writeConfigAccess({ offset: 0, liveMigration: false, bytes: answer }));
        return;
      }
      case abi.VHOST_USER_GET_INFLIGHT_FD: {
        const area = { ...payload.readInflight(message), mmapSize: 4096, mmapOffset: 0 };
        const fd = sys.check(sys.memfdCreate('inflight', 1), 'memfd_create', 'a test');
        channel.reply(message, payload.writeInflight(area), new Fd(fd));
        return;
      }
    }
    this.#keep(message);
    channel.acknowledge(message, true);
  }

  #keep(message: Message): void {
    switch (message.request) {
      case abi.VHOST_USER_SET_FEATURES:
        this.acked = payload.readU64(message);
        return;
      case abi.VHOST_USER_IOTLB_MSG:
        this.iotlb.push(payload.readIotlb(message));
        return;
      case abi.VHOST_USER_SET_STATUS:
        this.status = Number(payload.readU64(message));
        return;
      case abi.VHOST_USER_SET_VRING_BASE: {
        const { index, num } = payload.readVringNumber(message);
        this.bases.set(index, num);
        return;
      }
      case abi.VHOST_USER_SET_VRING_ADDR:
        this.addresses.push(payload.readVringAddress(message));
        return;
      case abi.VHOST_USER_SET_MEM_TABLE:
        this.regions = payload.readMemoryTable(message);
        return;
      case abi.VHOST_USER_ADD_MEM_REG:
        this.regions.push(payload.readMemoryRegion(message));
        return;
      case abi.VHOST_USER_SET_CONFIG:
        this.written = payload.readConfigAccess(message);
        return;
      case abi.VHOST_USER_SET_INFLIGHT_FD:
        this.inflight = fstatSync(message.fds[0]?.fd ?? -1).ino;
        return;
      case abi.VHOST_USER_SET_BACKEND_REQ_FD: {
        const [fd] = message.fds;
        if (fd === undefined) return;
        const socket = new UnixSocket(fd.fd);
        message.fds.length = 0;
        this.requests = new Channel(
          socket,
          { received: new Map(), sent: BACKEND_REQUESTS },
          { request: () => {}, closed: () => {} },
        );
      }
    }
  }
}
