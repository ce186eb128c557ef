/** A device for other VMMs: its configuration, its datapath, and the session that uses it. */
import { VIRTIO_ID_NET, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ } from '../../abi/virtio-net.ts';
import { featureSet, VIRTIO_F_ACCESS_PLATFORM } from '../../abi/virtio-ring.ts';
import { createDatapath, type Datapath } from '../../datapath/datapath.ts';
import { AsyncCloseable } from '../../host/cleanup-stack.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { DeniedAccess } from '../../memory/guest-memory.ts';
import type { DeviceHost, VirtioDevice } from '../../virtio/device.ts';
import type { PollMode } from '../../virtio/device-type.ts';

/** Frontends with an IOMMU negotiate it. */
const ACCESS_PLATFORM = featureSet(VIRTIO_F_ACCESS_PLATFORM);
/** How often a line is logged per minute, whatever frontends do. */
const REPEATS = 4;

/** What the device reports to the session that uses it. */
export interface DeviceEvents {
  /** @param denied what it met that is not in its IOTLB, if that was it */
  broken(reason: string, denied?: DeniedAccess): void;
  configChanged(): void;
}

/** Owns the device. It outlives its sessions, of which it has one at a time. */
export class BackendDevice extends AsyncCloseable implements DeviceHost {
  readonly device: VirtioDevice;
  /** All feature bits offered, ring features included. */
  readonly features: bigint;
  /** The largest size of each ring that frontends may set up. */
  readonly queueSizes: readonly number[];
  readonly datapath: Datapath;
  readonly poll: PollMode;
  /** A frontend or its driver can provoke most of these lines at will. */
  readonly #lines: LogLimit;
  #config: Uint8Array;
  #session: DeviceEvents | undefined;

  /**
   * @param log receives single lines for the user
   * @param poll how the thread that serves it waits
   */
  constructor(
    device: VirtioDevice,
    features: bigint,
    queueSizes: readonly number[],
    log: (text: string) => void,
    poll: PollMode = 'off',
  ) {
    super();
    this.device = device;
    this.poll = poll;
    // A network device's control queue, after the pairs, is the frontend's.
    const isControlled = this.#isNet && queueSizes.length % 2 === 1;
    this.queueSizes = isControlled ? queueSizes.slice(0, -1) : queueSizes;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`), REPEATS);
    this.#config = Uint8Array.from(device.config);
    this.datapath = createDatapath(device, {
      broken: (reason, denied) => this.#session?.broken(reason, denied),
      log: (text) => this.#lines.say(text),
      message: (message) => device.message?.(message),
    });
    this.features = (features & ~this.datapath.withheld) | ACCESS_PLATFORM;
    device.attach?.(this);
  }

  /** VHOST_USER_GET_QUEUE_NUM: frontends count a network device's queue pairs. */
  get queueNumber(): number {
    const rings = this.queueSizes.length;
    return this.#isNet ? rings / 2 : rings;
  }

  /** Pairs of feature bits: a frontend may negotiate the first only together with the second. */
  get featureDependencies(): readonly (readonly [bit: number, needs: number])[] {
    const all = this.device.featureDependencies ?? [];
    // Frontends do not say whether there is a control queue.
    return this.#isNet ? all.filter(([, needs]) => needs !== VIRTIO_NET_F_CTRL_VQ) : all;
  }

  /**
   * The negotiated features as the device sees them. The number of pairs follows from the rings that
   * are enabled, whether a frontend passes VIRTIO_NET_F_MQ on or not.
   */
  servedFeatures(negotiated: bigint): bigint {
    return this.#isNet ? negotiated | (this.features & featureSet(VIRTIO_NET_F_MQ)) : negotiated;
  }

  get #isNet(): boolean {
    return this.device.deviceId === VIRTIO_ID_NET;
  }

  log(text: string): void {
    this.#lines.say(text);
  }

  setSession(session: DeviceEvents): void {
    this.#session = session;
  }

  /** The last session has released the queues: the device is reset. */
  async release(): Promise<void> {
    this.#session = undefined;
    await this.reset();
  }

  async reset(): Promise<void> {
    this.#config = Uint8Array.from(this.device.config);
    this.device.reset?.();
    await this.datapath.reset?.();
  }

  /**
   * Writes configuration for the driver.
   * @returns false, with nothing written, if any of the bytes is read-only
   */
  writeConfig(offset: number, bytes: Uint8Array): boolean {
    const { configWriteMask } = this.device;
    if (bytes.some((_, i) => configWriteMask?.[offset + i] !== 0xff)) return false;
    this.#config.set(bytes, offset);
    this.device.configWritten?.(offset, bytes.length);
    if (offset === this.device.emergencyWrite) this.device.emergencyWritten?.(bytes.subarray(0, 1));
    return true;
  }

  updateConfig(change: (config: DataView) => void): void {
    const own = this.device.config;
    change(new DataView(this.#config.buffer));
    // Fields that the driver cannot write survive a reset.
    const mask = this.device.configWriteMask;
    for (const at of own.keys()) {
      if ((mask?.[at] ?? 0) === 0) own[at] = this.#config[at] ?? 0;
    }
    this.#session?.configChanged();
  }

  readConfig(): Uint8Array {
    return Uint8Array.from(this.#config);
  }

  post(message: unknown, key?: string): void {
    this.datapath.post(message, key);
  }

  async close(): Promise<void> {
    this.#lines.flush();
    try {
      await this.datapath.close();
    } finally {
      this.device.close();
    }
  }
}
