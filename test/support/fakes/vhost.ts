/** Records what a kernel's vhost device would get, for hosts without one. */
import { EAGAIN, EINVAL } from '../../../src/abi/errno.ts';
import * as abi from '../../../src/abi/vhost.ts';
import { Fd, signalEventfd } from '../../../src/host/fd.ts';
import { type NativeMemory, viewOf } from '../../../src/host/native-memory.ts';
import * as sys from '../../../src/host/syscall.ts';
import {
  decodeIotlb,
  encodeIotlb,
  type IotlbMessage,
  iotlbBuffer,
} from '../../../src/vhost/iotlb-message.ts';
import type { VhostBackend } from '../../../src/vhost/vhost-backend.ts';
import { VhostDevice } from '../../../src/vhost/vhost-device.ts';

const names = new Map<number, string>(
  Object.entries(abi).flatMap(([name, value]) =>
    name.startsWith('VHOST_') && typeof value === 'number' ? [[value, name] as const] : [],
  ),
);

/** Its rings, by number, and each call in order. */
export class FakeVhost {
  readonly calls: string[] = [];
  readonly bases = new Map<number, number>();
  readonly addresses = new Map<number, { desc: number; avail: number; used: number }>();
  readonly files = new Map<string, number>();
  regions: { gpa: number; size: number; address: number }[] = [];
  acked = 0n;
  backendFeatures = 0n;
  /** Changes of its IOTLB, in order. */
  readonly iotlb: IotlbMessage[] = [];
  /** What it asks for. */
  readonly #asked: IotlbMessage[] = [];
  #fd = -1;
  cid = 0n;
  running = -1;
  /** Name of an ioctl that fails. */
  fails = '';
  /** With which errno. */
  errno = EINVAL;
  readonly features: bigint;

  constructor(features: bigint) {
    this.features = features;
  }

  open(): VhostDevice {
    // Readable when it has something to say.
    this.#fd = sys.check(sys.eventfd(0, sys.O_CLOEXEC), 'eventfd', 'a fake');
    return new VhostDevice('/dev/fake', new Fd(this.#fd), {
      ioctl: (_fd, request, argument) => this.#ioctl(request, argument),
      read: (_fd, address, length) => this.#read(address, length),
      write: (_fd, address, length) => {
        this.iotlb.push(decodeIotlb(copy(address, length)));
        return length;
      },
    });
  }

  /** Asks for an address that its IOTLB lacks. */
  miss(iova: number, perm: number): void {
    this.#asked.push({ type: abi.VHOST_IOTLB_MISS, iova, size: 0, uaddr: 0, perm });
    signalEventfd(this.#fd);
  }

  /** Serves queues of a device by this kernel. */
  backend(queues: readonly number[]): VhostBackend {
    const vhost = this.open();
    return {
      vhost,
      queues,
      run: () => {
        if (this.fails === 'run') throw new Error('cannot run');
        this.calls.push('run');
      },
      halt: () => this.calls.push('halt'),
      close: () => vhost.close(),
      [Symbol.dispose]: () => vhost.close(),
    };
  }

  take(): string[] {
    return this.calls.splice(0);
  }

  #read(address: number, length: number): number {
    const message = this.#asked.shift();
    if (message === undefined) return -EAGAIN;
    new Uint8Array(viewOf(address, length)).set(encodeIotlb(message).bytes);
    return length;
  }

  #ioctl(request: number, argument: number): number {
    const name = names.get(request) ?? String(request);
    this.calls.push(name);
    if (name === this.fails) return -this.errno;
    const u32 = (at: number): number => new DataView(viewOf(argument + at, 4)).getUint32(0, true);
    const u64 = (at: number): bigint =>
      new DataView(viewOf(argument + at, 8)).getBigUint64(0, true);
    const put = (at: number, bytes: 4 | 8, value: bigint): void => {
      const view = new DataView(viewOf(argument + at, bytes));
      if (bytes === 8) view.setBigUint64(0, value, true);
      else view.setUint32(0, Number(value), true);
    };
    switch (request) {
      case abi.VHOST_GET_FEATURES:
        put(0, 8, this.features);
        break;
      case abi.VHOST_SET_FEATURES:
        this.acked = u64(0);
        break;
      case abi.VHOST_SET_BACKEND_FEATURES:
        this.backendFeatures = u64(0);
        break;
      case abi.VHOST_SET_MEM_TABLE:
        this.regions = Array.from({ length: u32(0) }, (_, i) => ({
          gpa: Number(u64(8 + 32 * i)),
          size: Number(u64(16 + 32 * i)),
          address: Number(u64(24 + 32 * i)),
        }));
        break;
      case abi.VHOST_VSOCK_SET_GUEST_CID:
        this.cid = u64(0);
        break;
      case abi.VHOST_VSOCK_SET_RUNNING:
        this.running = u32(0);
        break;
      case abi.VHOST_SET_VRING_BASE:
        this.bases.set(u32(0), u32(4));
        break;
      case abi.VHOST_GET_VRING_BASE:
        put(4, 4, BigInt(this.bases.get(u32(0)) ?? 0));
        break;
      case abi.VHOST_SET_VRING_ADDR:
        this.addresses.set(u32(0), {
          desc: Number(u64(8)),
          used: Number(u64(16)),
          avail: Number(u64(24)),
        });
        break;
      case abi.VHOST_SET_VRING_CALL:
      case abi.VHOST_SET_VRING_KICK:
      case abi.VHOST_SET_VRING_ERR:
        this.files.set(`${name} ${u32(0)}`, u32(4) | 0);
    }
    return 0;
  }
}

function copy(address: number, length: number): NativeMemory {
  const memory = iotlbBuffer();
  memory.bytes.set(new Uint8Array(viewOf(address, length)));
  return memory;
}
