/** A device whose queues a vDPA device of this host serves: the control half. */
import * as ring from '../abi/virtio-ring.ts';
import { featureSet, hasFeature } from '../abi/virtio-ring.ts';
import { parentPlace } from '../backend/parent-place.ts';
import { type Datapath, type DatapathEvents, StepQueue } from '../datapath/datapath.ts';
import { UsageError } from '../host/errors.ts';
import type { PoolCalls } from '../host/pool-calls.ts';
import type { BackendFacts, DeviceHost, QueueSpec, VirtioDevice } from '../virtio/device.ts';
import type { DeviceKind, ParentAddress, ParentOffer } from '../virtio/frontend-device.ts';
import { VhostVdpa } from './vhost-vdpa.ts';
import { VhostVdpaDatapath } from './vhost-vdpa-datapath.ts';

/** Ring features; those that the parent lacks are not offered. */
const RING_FEATURES = featureSet(
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_RING_PACKED,
  ring.VIRTIO_F_IN_ORDER,
);
/** vhost-vdpa resets no single queue, and an eventfd carries no data. */
const UNSUPPORTED = featureSet(ring.VIRTIO_F_RING_RESET, ring.VIRTIO_F_NOTIFICATION_DATA);
/** Barriers are the driver's: it has to know. */
const PASSED_ON = featureSet(ring.VIRTIO_F_ORDER_PLATFORM);
/** The parent's addresses are translated, with or without the driver's knowledge. */
const ACCESS_PLATFORM = featureSet(ring.VIRTIO_F_ACCESS_PLATFORM);
/** PCI's configuration of a device and of its notifications must have room for them. */
const MOST_QUEUES = 65;

/** Owns the open vDPA device. */
export class VhostVdpaDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number;
  readonly pciClass: number;
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
  /** Not in this process: see `createDatapath`. */
  readonly thread = { kind: 'main' } as const;
  readonly backend: BackendFacts;
  readonly #parent: VhostVdpa;
  readonly #offer: ParentOffer;
  readonly #kind: DeviceKind;
  readonly #steps = new StepQueue();
  #host: DeviceHost | undefined;
  /** By byte of the configuration space: the driver has written it since the reset. */
  readonly #written: Uint8Array;
  /** Likewise: the parent does not have it yet. */
  readonly #pending: Uint8Array;
  #writing = false;

  /**
   * @param kindOf finds out what the device is
   * @param calls tests substitute a kernel of their own
   * @throws UsageError when there is no such device, or it cannot be used; HostError
   */
  static async open(
    name: string,
    address: ParentAddress,
    kindOf: (parent: ParentOffer) => Promise<DeviceKind>,
    calls?: PoolCalls,
  ): Promise<VhostVdpaDevice> {
    const parent = await VhostVdpa.open(address, calls);
    const { path } = parent;
    try {
      const { queueCount, features } = parent.properties;
      if (!hasFeature(features, ring.VIRTIO_F_VERSION_1)) {
        throw new UsageError('E_VDPA', `${path} supports legacy drivers only`);
      }
      if (queueCount > MOST_QUEUES) {
        throw new UsageError(
          'E_VDPA',
          `${path} has ${queueCount} queues, more than ${MOST_QUEUES}`,
          'make it with fewer: "vdpa dev add ... max_vqp 32"',
        );
      }
      const offer = {
        ...parent.properties,
        path,
        maxQueues: queueCount,
        hasConfig: true,
        getConfig: (length: number) => parent.getConfig(length),
      };
      return new VhostVdpaDevice(name, parent, offer, await kindOf(offer));
    } catch (error) {
      await parent.close();
      throw error;
    }
  }

  private constructor(name: string, parent: VhostVdpa, offer: ParentOffer, kind: DeviceKind) {
    this.name = name;
    this.deviceId = kind.deviceId;
    this.pciClass = kind.pciClass;
    this.features = kind.backendFeatures | (parent.properties.features & PASSED_ON);
    this.queues = kind.queues;
    this.config = kind.config;
    this.configWriteMask = kind.configWriteMask ?? new Uint8Array(kind.config.length);
    const place = parentPlace(parent.path);
    this.backend = { name: parent.path, ...(place === undefined ? {} : { place }) };
    this.#kind = kind;
    this.#offer = offer;
    this.#parent = parent;
    this.#written = new Uint8Array(kind.config.length);
    this.#pending = new Uint8Array(kind.config.length);
  }

  get notifyPages(): readonly number[] | undefined {
    return this.#parent.notifyPages;
  }

  /** Each change has VDUSE's process map everything again, with its queues stopped. */
  iommuProblem(): string | undefined {
    return this.backend.place === 'process'
      ? 'a process serves its vDPA device (VDUSE), which is too slow at changes'
      : undefined;
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  /** The parent serves the queues. */
  createDatapath(events: DatapathEvents): Datapath {
    const { features } = this.#parent.properties;
    const user = {
      withheld: UNSUPPORTED | (RING_FEATURES & ~features),
      parentFeatures: (negotiated: bigint) =>
        (negotiated & (this.features | RING_FEATURES)) | (features & ACCESS_PLATFORM),
      // The parent was reset.
      writeConfig: (config: Uint8Array) => {
        this.#pending.set(this.#written);
        return this.#writeConfig(config);
      },
      showConfig: () => this.#showConfig(),
    };
    return new VhostVdpaDatapath(this.#parent, user, events);
  }

  /** One write after the other: a driver may write faster than the parent takes it. */
  configWritten(offset: number, length: number): void {
    this.#written.fill(1, offset, offset + length);
    this.#pending.fill(1, offset, offset + length);
    if (this.#writing) return;
    this.#writing = true;
    void this.#steps.run(async () => {
      this.#writing = false;
      const config = this.#host?.readConfig();
      // A parent that is gone is noticed at the next start.
      if (config !== undefined) await this.#writeConfig(config).catch(() => {});
    });
  }

  reset(): void {
    this.#written.fill(0);
    this.#pending.fill(0);
  }

  close(): void {
    this.#parent.closeNow();
  }

  /** What the parent does not have yet, in runs of bytes: a field may act as a whole. */
  async #writeConfig(config: Uint8Array): Promise<void> {
    const pending = Uint8Array.from(this.#pending);
    this.#pending.fill(0);
    for (let start = pending.indexOf(1); start >= 0; start = pending.indexOf(1, start)) {
      const end = pending.indexOf(0, start);
      const run = config.subarray(start, end < 0 ? config.length : end);
      await this.#parent.setConfig(start, run);
      start += run.length;
    }
  }

  /** Updates what the driver sees, and notifies it, if the configuration differs. */
  async #showConfig(): Promise<void> {
    const config = await this.#kind.readConfig?.(this.#offer);
    const shown = this.#host?.readConfig();
    if (config === undefined || shown === undefined || Buffer.compare(config, shown) === 0) return;
    this.#host?.updateConfig((view) => {
      for (const [at, byte] of config.entries()) view.setUint8(at, byte);
    });
  }
}
