/** A device of ours as a virtio device of this host's kernel: for its own drivers, or for guests by vhost-vdpa. */
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_ID_BLOCK } from '../abi/virtio-blk.ts';
import * as net from '../abi/virtio-net.ts';
import {
  featureSet,
  hasFeature,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
} from '../abi/virtio-ring.ts';
import { type Datapath, StepQueue } from '../datapath/datapath.ts';
import { InProcessDatapath } from '../datapath/in-process.ts';
import { AsyncCloseable, CleanupStack } from '../host/cleanup-stack.ts';
import { messageOf, PeerError, UsageError } from '../host/errors.ts';
import { Eventfd, signalEventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import { runtimeFolder } from '../host/private-folder.ts';
import type { ForeignRam } from '../memory/foreign-ram.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { BackendDevice } from '../vhost-user/backend/backend-device.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../virtio/queue/virtqueue.ts';
import { FailingDisk } from './failing-disk.ts';
import { VduseDevice, type VduseKernel, type VduseRequest } from './vduse-device.ts';
import { VduseInterrupts } from './vduse-interrupts.ts';
import { mapIotlb } from './vduse-memory.ts';
import { VduseRecord } from './vduse-record.ts';

const STATUS_DRIVER_OK = 4;
/**
 * What the kernel refuses in VDUSE devices, since it cannot trust a process with it, and what needs that: drivers refuse a
 * device that has one without the other (virtio 1.3 §5.1.3.1).
 */
const REFUSED: Readonly<Record<number, bigint>> = {
  [VIRTIO_ID_BLOCK]: featureSet(VIRTIO_BLK_F_CONFIG_WCE),
  [net.VIRTIO_ID_NET]: featureSet(
    net.VIRTIO_NET_F_CTRL_VQ,
    net.VIRTIO_NET_F_CTRL_RX,
    net.VIRTIO_NET_F_CTRL_RX_EXTRA,
    net.VIRTIO_NET_F_CTRL_VLAN,
    net.VIRTIO_NET_F_CTRL_MAC_ADDR,
    net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    net.VIRTIO_NET_F_MQ,
  ),
};
/** Queues of a network device without multiqueue. */
const NET_QUEUES = 2;
/** Bytes of a used ring before its entries (virtio 1.3 §2.7.8); a packed ring's area has as many. */
const USED_HEAD = 4;

/** Where it keeps what; tests substitute their own. */
export interface VdusePlaces {
  readonly kernel?: VduseKernel;
  /** Of this user's own, for the record of what is in flight. */
  readonly folder?: string;
}

/** Exists from its making to `close`. The device stays its caller's. */
export class VduseBackend extends AsyncCloseable {
  /** It continues for a server that was killed: it is a vDPA device already. */
  readonly resumed: boolean;
  /** Rejects when the kernel has given the device up: it waited for an answer in vain. */
  readonly lost: Promise<never>;
  #lose: (error: Error) => void = () => {};
  readonly #device: BackendDevice;
  readonly #vduse: VduseDevice;
  readonly #record: VduseRecord;
  /** What the kernel signals for each queue; these outlive resets. */
  readonly #kicks: readonly Eventfd[];
  readonly #interrupts: VduseInterrupts;
  readonly #owned: CleanupStack;
  readonly #steps = new StepQueue();
  #ram: ForeignRam | undefined;
  /** What serves a disk that broke. */
  readonly #failing: Datapath | undefined;
  #features = 0n;
  /** What serves the queues now. */
  #serving: Datapath | undefined;
  #broken = false;
  /** Where each queue stopped, until the driver's reset. */
  #states: ReadonlyMap<number, VringState> = new Map();

  /** @throws UsageError when the kernel takes no such device, or it cannot continue for another one; else as VduseDevice */
  constructor(name: string, device: BackendDevice, { kernel, folder }: VdusePlaces = {}) {
    super();
    const { deviceId } = device.device;
    const refused = REFUSED[deviceId];
    if (refused === undefined) {
      throw new UsageError(
        'E_VDUSE',
        `the kernel takes no VDUSE device of type ${deviceId}`,
        'serve a disk or a network device',
      );
    }
    // A record cannot show what is in flight in rings that are used in order.
    const withheld = refused | featureSet(VIRTIO_F_IN_ORDER);
    const features = (device.features & ~withheld) | featureSet(VIRTIO_F_ACCESS_PLATFORM);
    const queueSizes =
      deviceId === net.VIRTIO_ID_NET ? device.queueSizes.slice(0, NET_QUEUES) : device.queueSizes;
    using stack = new CleanupStack();
    const shape = { deviceId, features, queueSizes, config: device.readConfig() };
    const vduse = stack.use(new VduseDevice(name, shape, kernel));
    const { resumed } = vduse;
    if (resumed) checkResumed(vduse, features);
    const place = folder ?? runtimeFolder();
    const record = resumed
      ? VduseRecord.open(place, name, shape)
      : VduseRecord.create(place, name, shape);
    stack.use(record);
    this.resumed = resumed;
    this.lost = new Promise((_, reject) => {
      this.#lose = reject;
    });
    this.lost.catch(() => {});
    this.#device = device;
    this.#vduse = vduse;
    this.#record = record;
    if (deviceId === VIRTIO_ID_BLOCK) {
      this.#failing = new InProcessDatapath(() => new FailingDisk(), {
        broken: () => {},
        log: (text) => device.log(text),
        message: () => {},
      });
    }
    this.#kicks = queueSizes.map(() => stack.use(new Eventfd()));
    this.#interrupts = stack.use(new VduseInterrupts(vduse, queueSizes.length));
    const requests = stack.use(new LoopWatch(vduse.fd, LOOP_READABLE, () => this.#read()));
    requests.hold(true);
    device.setSession({
      broken: (reason) => this.#break(reason),
      configChanged: () => this.#vduse.setConfig(device.readConfig()),
    });
    if (resumed) void this.#steps.run(() => this.#resume());
    this.#owned = stack.move();
  }

  /** Stops serving. What is bound to the device must have been removed before (`vdpa dev del`). */
  async close(): Promise<void> {
    await this.#steps.run(async () => {
      await this.#halt();
      this.#owned.dispose();
      if (this.#vduse.isRemoved) this.#record.remove();
    });
    await this.#device.release();
  }

  #read(): void {
    let count = 0;
    for (;;) {
      const request = this.#vduse.next();
      if (request === undefined) break;
      count++;
      void this.#steps.run(() => this.#answer(request));
    }
    if (count === 0 && this.#vduse.isGivenUp) this.#lose(givenUp(this.#vduse.name));
  }

  /** Continues where a killed server was. */
  async #resume(): Promise<void> {
    try {
      if (!this.#vduse.setConfig(this.#device.readConfig())) return;
      await this.#start(() => {});
    } catch (error) {
      this.#break(messageOf(error));
      return;
    }
    // That server may have been killed before it interrupted the driver.
    for (const index of this.#kicks.keys()) this.#interrupts.raise(index);
    this.#device.log('continues for a server that was killed');
  }

  async #answer(request: VduseRequest): Promise<void> {
    if (this.#owned.disposed) return;
    try {
      switch (request.type) {
        case 'vq-state': {
          // The answer is final: the ring is not touched any more.
          await this.#halt();
          const base = vringBase(this.#states.get(request.queue), this.#isPacked);
          this.#vduse.answer(request.id, true, {
            queue: request.queue,
            packed: this.#isPacked,
            base,
          });
          return;
        }
        case 'status':
          // The kernel resets without an answer when the process that asked was killed; a status after it shows that.
          if ((request.status & STATUS_DRIVER_OK) === 0) {
            await this.#reset();
            break;
          }
          await this.#start(() => this.#vduse.answer(request.id, true));
          return;
        case 'iotlb':
          // Addresses may mean other memory now; nothing is in flight when this is answered.
          if (this.#serving !== undefined) {
            const serving = this.#serving;
            await this.#halt();
            await this.#serve(serving);
          }
          break;
      }
      this.#vduse.answer(request.id, request.type !== 'unknown');
    } catch (error) {
      this.#break(messageOf(error));
      this.#vduse.answer(request.id, false);
    }
  }

  /** @param accept called when the rings are found good, or are not to be served */
  async #start(accept: () => void): Promise<void> {
    if (this.#serving !== undefined || this.#broken) accept();
    else await this.#serve(this.#device.datapath, accept);
  }

  /**
   * @param accept called before the datapath starts. The probe of virtio_net waits for the answer with the kernel's lock of
   *   network interfaces (RTNL), which a tap takes to set its offloads.
   */
  async #serve(datapath: Datapath, accept: () => void = () => {}): Promise<void> {
    this.#features = this.#vduse.features();
    this.#ram = mapIotlb(this.#vduse);
    const queues = this.#readyQueues(new GuestMemory(this.#ram.share));
    accept();
    await datapath.start({
      memory: this.#ram.share,
      features: this.#features,
      config: this.#device.readConfig(),
      queues,
      poll: this.#device.poll,
    });
    this.#serving = datapath;
    // The driver may have kicked before the eventfd was there.
    for (const { kickFd } of queues) signalEventfd(kickFd);
  }

  get #isPacked(): boolean {
    return hasFeature(this.#features, VIRTIO_F_RING_PACKED);
  }

  /** @throws PeerError when a ring is not in memory */
  #readyQueues(memory: GuestMemory): QueueConfig[] {
    const packed = this.#isPacked;
    const queues = this.#kicks.flatMap((kick, index) => {
      const { ready, base, ...queue } = this.#vduse.queue(index, packed);
      if (!ready) return [];
      this.#vduse.setKick(index, kick.fd);
      const used = memory.offset(queue.deviceArea, USED_HEAD);
      if (used < 0 || used % 2 !== 0) {
        throw new PeerError(
          'E_QUEUE_ADDRESS',
          `the device area of queue ${index} is not in memory`,
        );
      }
      const set = vringState(base, packed, memory, used);
      // The driver's side set where the ring started; where it is now, the record knows better than this.
      const now =
        this.#record.isWritten(index) && !packed ? { ...set, nextAvail: set.nextUsed } : set;
      const state = this.#states.get(index) ?? now;
      const inflight = this.#record.place(index);
      const tracked = inflight === undefined ? {} : { inflight };
      const callFd = this.#interrupts.fd(index);
      return { index, ...queue, kickFd: kick.fd, callFd, state, ...tracked };
    });
    memory.detach();
    return queues;
  }

  async #halt(): Promise<void> {
    const serving = this.#serving;
    this.#serving = undefined;
    if (serving !== undefined) this.#states = await serving.stop([...this.#kicks.keys()]);
    this.#ram?.close();
    this.#ram = undefined;
  }

  async #reset(): Promise<void> {
    await this.#halt();
    this.#states = new Map();
    this.#broken = false;
    this.#record.clear();
    this.#interrupts.drop();
    await this.#device.reset();
  }

  /** A disk's requests fail from now on; those of other devices wait. */
  fail(reason: string): void {
    this.#break(reason);
  }

  /** Until the driver resets the device. */
  #break(reason: string): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#device.log(`stopped: ${reason}`);
    void this.#steps.run(async () => {
      // It may break while it is closed.
      if (this.#owned.disposed) return;
      await this.#halt();
      if (this.#failing === undefined) return;
      try {
        await this.#serve(this.#failing);
      } catch {
        // The rings are what is broken.
        await this.#halt();
      }
    });
  }
}

/** @throws UsageError unless the driver of a killed server can be served on */
function checkResumed(vduse: VduseDevice, offered: bigint): void {
  if (vduse.isGivenUp) throw givenUp(vduse.name);
  const missing = vduse.features() & ~offered;
  if (missing === 0n) return;
  throw new UsageError(
    'E_VDUSE',
    `the driver of ${vduse.name} uses features that the device does not have (0x${missing.toString(16)})`,
    `serve it with the options it had, or remove it with "vdpa dev del ${vduse.name}"`,
  );
}

function givenUp(name: string): UsageError {
  return new UsageError(
    'E_VDUSE',
    `the kernel has given the VDUSE device ${name} up: it waited for an answer for 30 s`,
    `remove it with "vdpa dev del ${name}"`,
  );
}
