/** A kernel with VDUSE, for hosts without it: a device's driver is the test's, in RAM of the test's. */
import { EAGAIN, EBUSY, EEXIST, EINVAL, ENOENT, EPERM } from '../../../src/abi/errno.ts';
import * as abi from '../../../src/abi/vduse.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { viewOf } from '../../../src/host/native-memory.ts';
import * as sys from '../../../src/host/syscall.ts';
import type { VduseKernel } from '../../../src/vduse/vduse-device.ts';
import type { QueueConfig } from '../../../src/virtio/queue/virtqueue.ts';

const F_DUPFD_CLOEXEC = 1030;
const DRIVER_OK = 4;
const names = new Map(
  Object.entries(abi).flatMap(([name, value]) =>
    /^VDUSE_[A-Z]+_/.test(name) && typeof value === 'number' && value > 0xffff
      ? [[value, name] as const]
      : [],
  ),
);

/** What the device answered. */
export interface FakeAnswer {
  readonly ok: boolean;
  /** Of VDUSE_GET_VQ_STATE: what follows the queue's index. */
  readonly words: readonly number[];
}

export class FakeVduse implements VduseKernel {
  /** Names of ioctls, in order; interrupts are not among them. */
  readonly calls: string[] = [];
  readonly interrupts: number[] = [];
  /** Interrupts before DRIVER_OK. */
  refused = 0;
  /** Eventfds for the driver's notifications, by queue. */
  readonly kicks = new Map<number, number>();
  readonly created = { name: '', features: 0n, queues: 0, config: new Uint8Array() };
  exists = false;
  leftover = false;
  /** It is a vDPA device, which keeps it. */
  bound = false;
  /** Another process has it open. */
  served = false;
  driverOk = false;
  /** An answer was late. */
  givenUp = false;
  /** The process that waited for answers was killed. */
  abandoned = false;
  negotiated = 0n;
  readonly queues: (QueueConfig & { readonly base?: number })[] = [];
  /** I/O addresses from 0 on are this file. */
  ram: { readonly fd: number; readonly size: number } | undefined;
  readonly #readable = new Eventfd();
  readonly #requests: Uint8Array[] = [];
  readonly #answers = new Map<number, (answer: FakeAnswer) => void>();
  #next = 0;

  open = (path: string): number => {
    if (path === '/dev/vduse/control') {
      return sys.open('/dev/null', sys.O_RDWR | sys.O_CLOEXEC);
    }
    if (this.served) return -EBUSY;
    return this.exists ? sys.fcntl(this.#readable.fd, F_DUPFD_CLOEXEC) : -ENOENT;
  };

  read = (_fd: number, address: number, length: number): number => {
    const request = this.#requests.shift();
    if (request === undefined) {
      this.#readable.drain();
      return -EAGAIN;
    }
    new Uint8Array(viewOf(address, length)).set(request);
    return request.length;
  };

  write = (_fd: number, address: number, length: number): number => {
    const view = new DataView(viewOf(address, length));
    const at = abi.vduse_dev_response.padding.offset + abi.vduse_vq_state.last_avail_counter.offset;
    const words = [0, 1, 2, 3].map((i) => view.getUint16(at + 2 * i, true));
    const ok = view.getUint32(abi.vduse_dev_response.result.offset, true) === 0;
    const id = view.getUint32(0, true);
    this.#answers.get(id)?.({ ok, words });
    this.#answers.delete(id);
    return this.abandoned ? -ENOENT : length;
  };

  ioctl = (_fd: number, request: number, address: number): number => {
    if (request === abi.VDUSE_VQ_INJECT_IRQ) {
      if (!this.driverOk) {
        this.refused++;
        return -EINVAL;
      }
      this.interrupts.push(new DataView(viewOf(address, 4)).getUint32(0, true));
      return 0;
    }
    this.calls.push(names.get(request) ?? String(request));
    if (
      this.givenUp &&
      ![abi.VDUSE_SET_API_VERSION, abi.VDUSE_CREATE_DEV, abi.VDUSE_DESTROY_DEV].includes(request)
    )
      return -EPERM;
    switch (request) {
      case abi.VDUSE_DEV_INJECT_CONFIG_IRQ:
        return this.driverOk ? 0 : -EINVAL;
      case abi.VDUSE_CREATE_DEV:
        return this.#create(address);
      case abi.VDUSE_DESTROY_DEV:
        if (!this.exists && !this.leftover) return -EINVAL;
        if (this.bound) return -EBUSY;
        this.exists = false;
        this.leftover = false;
        return 0;
      case abi.VDUSE_DEV_GET_FEATURES:
        new DataView(viewOf(address, 8)).setBigUint64(0, this.negotiated, true);
        return 0;
      case abi.VDUSE_VQ_GET_INFO:
        return this.#info(new DataView(viewOf(address, abi.vduse_vq_info.size)));
      case abi.VDUSE_VQ_SETUP_KICKFD: {
        const view = new DataView(viewOf(address, abi.vduse_vq_eventfd.size));
        this.kicks.set(view.getUint32(0, true), view.getInt32(4, true));
        return 0;
      }
      case abi.VDUSE_IOTLB_GET_FD:
        return this.#entry(new DataView(viewOf(address, abi.vduse_iotlb_entry.size)));
      default:
        return 0;
    }
  };

  /** Wakes the device without a request, as an error of the file does. */
  wake(): void {
    this.#readable.signal();
  }

  /** Asks the device something. @returns its answer */
  ask(type: number, body: (view: DataView) => void = () => {}): Promise<FakeAnswer> {
    const request = new Uint8Array(abi.vduse_dev_request.size);
    const view = new DataView(request.buffer);
    const id = ++this.#next;
    view.setUint32(0, type, true);
    view.setUint32(abi.vduse_dev_request.request_id.offset, id, true);
    body(new DataView(request.buffer, abi.vduse_dev_request.padding.offset));
    const answer = new Promise<FakeAnswer>((resolve) => this.#answers.set(id, resolve));
    this.#requests.push(request);
    this.#readable.signal();
    return answer;
  }

  /** The status is set when the device has accepted it. */
  async status(status: number): Promise<FakeAnswer> {
    const answer = await this.ask(abi.VDUSE_SET_STATUS, (view) => view.setUint8(0, status));
    if (answer.ok) this.driverOk = (status & DRIVER_OK) !== 0;
    return answer;
  }

  state(queue: number): Promise<FakeAnswer> {
    return this.ask(abi.VDUSE_GET_VQ_STATE, (view) => view.setUint32(0, queue, true));
  }

  take(): string[] {
    return this.calls.splice(0);
  }

  close(): void {
    this.#readable.close();
  }

  #create(address: number): number {
    if (this.leftover || this.exists) return -EEXIST;
    const { size } = abi.vduse_dev_config;
    const head = new DataView(viewOf(address, size));
    const length = head.getUint32(abi.vduse_dev_config.config_size.offset, true);
    this.created.name = Buffer.from(viewOf(address, 256)).toString('latin1').replace(/\0.*$/s, '');
    this.created.features = head.getBigUint64(abi.vduse_dev_config.features.offset, true);
    this.created.queues = head.getUint32(abi.vduse_dev_config.vq_num.offset, true);
    this.created.config = Uint8Array.from(new Uint8Array(viewOf(address + size, length)));
    this.exists = true;
    return 0;
  }

  #info(view: DataView): number {
    const queue = this.queues.find(({ index }) => index === view.getUint32(0, true));
    if (queue === undefined) return 0;
    const { num, desc_addr, driver_addr, device_addr, ready } = abi.vduse_vq_info;
    view.setUint32(num.offset, queue.size, true);
    view.setBigUint64(desc_addr.offset, BigInt(queue.descriptorArea), true);
    view.setBigUint64(driver_addr.offset, BigInt(queue.driverArea), true);
    view.setBigUint64(device_addr.offset, BigInt(queue.deviceArea), true);
    view.setUint16(abi.vduse_vq_info.last_avail_counter.offset, queue.base ?? 0, true);
    view.setUint16(abi.vduse_vq_info.last_used_counter.offset, queue.base ?? 0, true);
    view.setUint8(ready.offset, 1);
    return 0;
  }

  #entry(view: DataView): number {
    const { start, last, perm, offset } = abi.vduse_iotlb_entry;
    if (this.ram === undefined || view.getBigUint64(start.offset, true) > 0n) return -EPERM;
    view.setBigUint64(offset.offset, 0n, true);
    view.setBigUint64(last.offset, BigInt(this.ram.size - 1), true);
    view.setUint8(perm.offset, 3);
    return sys.fcntl(this.ram.fd, F_DUPFD_CLOEXEC);
  }
}
