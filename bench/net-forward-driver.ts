/** The driver side of bench/net-forward.ts: packets received by one device are sent by the other. */
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../src/abi/virtio-ring.ts';
import { Epoll } from '../src/host/epoll.ts';
import type { GuestMemory } from '../src/memory/guest-memory.ts';
import type { NetDevice } from '../src/virtio/device/net/net.ts';
import { createHandler } from '../src/virtio/device/net/net-handler.ts';
import type { ActiveQueue, QueueHandler } from '../src/virtio/device.ts';
import { createVirtqueue } from '../src/virtio/queue/create-virtqueue.ts';

const SIZE = 256;
const BUFFER = 4096;
const AVAIL = 0x1000;
const USED = 0x2000;
const BUFFERS = 0x10_0000;

/** A split ring whose descriptor i is buffer i of a receive ring. */
class Ring {
  readonly desc: DataView;
  readonly avail: Uint16Array;
  readonly used: Uint16Array;
  readonly usedWords: Uint32Array;
  readonly at: number;
  availIdx = 0;
  seen = 0;
  /** Interrupt at the next used buffer. */
  interrupted = false;

  constructor(memory: GuestMemory, at: number) {
    this.at = at;
    const bytes = memory.bytes(at, 0x4000);
    this.desc = new DataView(bytes.buffer, bytes.byteOffset, SIZE * 16);
    this.avail = new Uint16Array(bytes.buffer, bytes.byteOffset + AVAIL, SIZE + 3);
    this.used = new Uint16Array(bytes.buffer, bytes.byteOffset + USED, SIZE * 4 + 3);
    this.usedWords = new Uint32Array(bytes.buffer, bytes.byteOffset + USED, SIZE * 2 + 1);
  }

  describe(index: number, gpa: number, length: number, flags: number, next: number): void {
    this.desc.setUint32(index * 16, gpa, true);
    this.desc.setUint32(index * 16 + 8, length, true);
    this.desc.setUint16(index * 16 + 12, flags, true);
    this.desc.setUint16(index * 16 + 14, next, true);
  }

  offer(head: number): void {
    this.avail[2 + (this.availIdx++ & (SIZE - 1))] = head;
  }

  /** Returns whether the device wants a kick (§2.7.10.1). */
  publish(): boolean {
    const before = this.avail[1] as number;
    const now = this.availIdx & 0xffff;
    if (now === before) return false;
    Atomics.store(this.avail, 1, now);
    const event = Atomics.load(this.used, 2 + 4 * SIZE);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  get usedIdx(): number {
    return Atomics.load(this.used, 1);
  }
}

/** A device, its data half, and its two rings. */
export class ForwardedDevice {
  readonly handler: QueueHandler;
  readonly rx: Ring;
  readonly tx: Ring;
  readonly buffers: number;
  readonly memory: GuestMemory;
  /** Segments of the packets being sent, by their head: freed when the device used it. */
  readonly segments = new Uint16Array(SIZE);
  readonly features: bigint;

  constructor(device: NetDevice, memory: GuestMemory, at: number, features: bigint) {
    if (device.thread.kind !== 'worker') throw new Error('it is served in a worker');
    this.memory = memory;
    this.features = features;
    this.handler = createHandler(device.thread.options);
    this.rx = new Ring(memory, at);
    this.tx = new Ring(memory, at + 0x1_0000);
    this.buffers = at + BUFFERS;
    for (let i = 0; i < SIZE; i++) {
      this.rx.describe(i, this.buffers + i * BUFFER, BUFFER, VIRTQ_DESC_F_WRITE, 0);
      this.rx.offer(i);
    }
    this.rx.publish();
  }
}

/** Serves two devices and their driver in this thread. */
export class Forwarder {
  readonly #devices: readonly ForwardedDevice[];
  readonly #epoll = new Epoll(16);
  readonly #again = new Set<() => void>();

  constructor(devices: readonly ForwardedDevice[]) {
    this.#devices = devices;
    for (const [number, device] of devices.entries()) this.#start(number, device);
  }

  /** Serves for a while. */
  serve(milliseconds: number): void {
    const end = Date.now() + milliseconds;
    while (Date.now() < end) {
      const count = this.#epoll.wait(this.#again.size > 0 ? 0 : 1);
      for (let i = 0; i < count; i++) {
        const token = this.#epoll.token(i);
        this.#devices[token >>> 8]?.handler.ready(token & 0xff, this.#epoll.events(i));
      }
      const again = [...this.#again];
      this.#again.clear();
      for (const kick of again) kick();
      const [a, b] = this.#devices as [ForwardedDevice, ForwardedDevice];
      this.#forward(a, b);
      this.#forward(b, a);
    }
  }

  close(): void {
    for (const { handler } of this.#devices) handler.stop();
    this.#epoll.close();
  }

  #start(number: number, device: ForwardedDevice): void {
    const { memory, features, handler } = device;
    const queues = [device.rx, device.tx].map((ring, index): ActiveQueue => {
      const config = {
        index,
        size: SIZE,
        descriptorArea: ring.at,
        driverArea: ring.at + AVAIL,
        deviceArea: ring.at + USED,
        kickFd: -1,
        callFd: -1,
      };
      return {
        virtqueue: createVirtqueue(memory, config, features),
        interrupt: () => undefined,
        kickAgain: () => {
          this.#again.add(() => handler.kick(index));
        },
      };
    });
    const watched = new Set<number>();
    const watch = (fd: number, events: number, token: number): void => {
      if (events === 0) {
        if (watched.delete(fd)) this.#epoll.remove(fd);
      } else if (watched.has(fd)) {
        this.#epoll.modify(fd, events, number * 256 + token);
      } else {
        this.#epoll.add(fd, events, number * 256 + token);
        watched.add(fd);
      }
    };
    handler.start({
      memory,
      features,
      queues,
      reactor: { watch },
      broken: (reason) => {
        throw new Error(reason);
      },
      log: console.error,
      post: () => undefined,
    });
    handler.kick(0);
    handler.kick(1);
  }

  /** Sends what one device received through the other, and gives sent buffers back. */
  #forward(from: ForwardedDevice, to: ForwardedDevice): void {
    const { rx } = from;
    const { tx } = to;
    const received = rx.usedIdx;
    while (rx.seen !== received) {
      const first = this.#used(rx, 0);
      const header = from.buffers + first * BUFFER;
      const count = from.memory.readU16(header + 10);
      let at = first;
      for (let i = 0; i < count; i++) {
        const length = rx.usedWords[1 + ((rx.seen + i) & (SIZE - 1)) * 2 + 1] as number;
        const next = i + 1 < count ? this.#used(rx, i + 1) : 0;
        const flags = i + 1 < count ? VIRTQ_DESC_F_NEXT : 0;
        tx.describe(at, from.buffers + at * BUFFER, length, flags, next);
        at = next;
      }
      to.segments[first] = count;
      tx.offer(first);
      rx.seen = (rx.seen + count) & 0xffff;
    }
    if (tx.publish()) to.handler.kick(1);
    const sent = tx.usedIdx;
    while (tx.seen !== sent) {
      let index = this.#used(tx, 0);
      for (let left = to.segments[index] as number; left > 0; left--) {
        rx.offer(index);
        index = tx.desc.getUint16(index * 16 + 14, true);
      }
      tx.seen = (tx.seen + 1) & 0xffff;
    }
    if (rx.publish()) from.handler.kick(0);
  }

  #used(ring: Ring, ahead: number): number {
    return ring.usedWords[1 + ((ring.seen + ahead) & (SIZE - 1)) * 2] as number;
  }
}
