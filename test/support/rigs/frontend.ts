/** A frontend without a guest: memory that it shares, rings in it, and a driver for each. */
import {
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_SET_FEATURES,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_PROTOCOL_FEATURES,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
} from '../../../src/abi/vhost-user.ts';
import { featureSet, hasFeature, VIRTIO_F_RING_PACKED } from '../../../src/abi/virtio-ring.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { UnixSocket } from '../../../src/host/unix-socket.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { Channel } from '../../../src/vhost-user/channel.ts';
import {
  BACKEND_REQUESTS,
  FRONTEND_REQUESTS,
  type Message,
} from '../../../src/vhost-user/message.ts';
import * as payload from '../../../src/vhost-user/payload.ts';

const RAM_SIZE = 8 * MiB;
/** Where this frontend claims to map its memory. */
export const USER_ADDRESS = 0x7f00_0000_0000;

/** One ring of it. */
export interface RigRing {
  readonly queue: DriverQueue;
  readonly kick: Eventfd;
  readonly call: Eventfd;
}

/** Connected from its making to its end. */
export class FrontendRig implements Disposable {
  readonly ram = new Ram(RAM_SIZE, 'memfd', false);
  readonly heap = new GuestHeap(this.ram.memory, 4096, RAM_SIZE);
  readonly channel: Channel;
  readonly closed: Promise<Error | undefined>;
  readonly rings: RigRing[] = [];
  features = 0n;

  constructor(path: string) {
    let closed: (error?: Error) => void = () => {};
    this.closed = new Promise((resolve) => {
      closed = resolve;
    });
    this.channel = new Channel(
      UnixSocket.connect(path),
      { received: BACKEND_REQUESTS, sent: FRONTEND_REQUESTS },
      { request: () => {}, closed },
    );
  }

  /** Sends a request that asks for an acknowledgement. Returns the backend's answer: 0 is success. */
  async ask(request: number, view?: DataView, fds: readonly number[] = []): Promise<bigint> {
    return payload.readU64(await this.call(request, view, fds));
  }

  call(request: number, view?: DataView, fds: readonly number[] = []): Promise<Message> {
    return this.channel.call(request, VHOST_USER_NEED_REPLY_MASK, view, fds);
  }

  /** Negotiates all that is offered, less what is refused, and shares memory. */
  async negotiate(refused = 0n): Promise<void> {
    const offered = payload.readU64(await this.channel.call(VHOST_USER_GET_FEATURES));
    this.features = offered & ~refused;
    if (hasFeature(offered, VHOST_USER_F_PROTOCOL_FEATURES)) {
      const protocol = await this.channel.call(VHOST_USER_GET_PROTOCOL_FEATURES);
      const bits = payload.readU64(protocol);
      this.channel.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, payload.writeU64(bits));
    }
    await this.ask(VHOST_USER_SET_OWNER);
    await this.ask(VHOST_USER_SET_FEATURES, payload.writeU64(this.features));
    await this.shareMemory();
  }

  shareMemory(): Promise<bigint> {
    const region = {
      gpa: 0,
      size: RAM_SIZE,
      userAddress: USER_ADDRESS,
      mmapOffset: 0,
    };
    const { fd } = this.ram.memory.share;
    return this.ask(VHOST_USER_SET_MEM_TABLE, payload.writeMemoryTable([region]), [fd]);
  }

  /** Sets a ring up and enables it. */
  async startRing(index: number, size = 16, base = 0x8000_8000): Promise<RigRing> {
    const kick = new Eventfd();
    const call = new Eventfd();
    const features = this.features & ~featureSet(VHOST_USER_F_PROTOCOL_FEATURES);
    const queue = createDriverQueue(this.heap, { index, size, features });
    const ring = { queue, kick, call };
    this.#close(this.rings[index]);
    this.rings[index] = ring;
    await this.ask(VHOST_USER_SET_VRING_NUM, payload.writeVringNumber({ index, num: size }));
    const num = hasFeature(features, VIRTIO_F_RING_PACKED) ? base : 0;
    await this.resumeRing(index, num);
    return ring;
  }

  async resumeRing(index: number, num: number, kicks = true): Promise<void> {
    const ring = this.rings[index];
    if (ring === undefined) throw new Error('no such ring');
    const { config } = ring.queue;
    const user = (gpa: number): number => gpa + USER_ADDRESS;
    await this.ask(VHOST_USER_SET_VRING_BASE, payload.writeVringNumber({ index, num }));
    const address = payload.writeVringAddress({
      index,
      flags: 0,
      descriptor: user(config.descriptorArea),
      available: user(config.driverArea),
      used: user(config.deviceArea),
    });
    await this.ask(VHOST_USER_SET_VRING_ADDR, address);
    const fd = payload.writeVringFd(index, true);
    await this.ask(VHOST_USER_SET_VRING_CALL, fd, [ring.call.fd]);
    if (kicks) await this.ask(VHOST_USER_SET_VRING_KICK, fd, [ring.kick.fd]);
    else await this.ask(VHOST_USER_SET_VRING_KICK, payload.writeVringFd(index, false));
    await this.ask(VHOST_USER_SET_VRING_ENABLE, payload.writeVringNumber({ index, num: 1 }));
  }

  [Symbol.dispose](): void {
    this.channel.close();
    for (const ring of this.rings) this.#close(ring);
    this.ram[Symbol.dispose]();
  }

  #close(ring: RigRing | undefined): void {
    ring?.kick.close();
    ring?.call.close();
  }
}
