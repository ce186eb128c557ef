/** A device that other VMMs may use: its configuration, its datapath, and who uses it now. */

import { VIRTIO_ID_NET, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ } from '../../abi/virtio-net.ts';
import { createDatapath } from '../../datapath/create-datapath.ts';
import type { Datapath, PollMode } from '../../datapath/datapath.ts';
import { LogLimit } from '../../host/untrusted-text.ts';
import type { DeviceHost, VirtioDevice } from '../../virtio/device.ts';
import { featureSet } from '../../virtio/features.ts';

/** The same line in a minute: of frontends that come and go. */
const REPEATS = 4;

/** What the device has to say to the session that uses it. */
export interface DeviceUser {
  broken(reason: string): void;
  configChanged(): void;
}

/** Owns the device. It outlives its users, of whom it has one at a time. */
export class ExportedDevice implements DeviceHost, AsyncDisposable {
  readonly device: VirtioDevice;
  /** All feature bits on offer, those of rings included. */
  readonly features: bigint;
  /** The largest size of each ring that frontends know of. */
  readonly queueSizes: readonly number[];
  readonly datapath: Datapath;
  readonly poll: PollMode;
  /** A frontend or its driver can have most lines repeated. */
  readonly #lines: LogLimit;
  #config: Uint8Array;
  #user: DeviceUser | undefined;

  /**
   * @param log gets one line for the person who runs it
   * @param poll how a device with a thread of its own waits
   */
  constructor(
    device: VirtioDevice,
    features: bigint,
    queueSizes: readonly number[],
    log: (text: string) => void,
    poll: PollMode = 'never',
  ) {
    this.device = device;
    this.poll = poll;
    // Frontends keep a network device's control queue, the last one, to themselves.
    this.queueSizes = this.#isNet ? queueSizes.slice(0, -1) : queueSizes;
    this.#lines = new LogLimit((text) => log(`${device.name}: ${text}`), REPEATS);
    this.#config = Uint8Array.from(device.config);
    this.datapath = createDatapath(device, {
      broken: (reason) => this.#user?.broken(reason),
      log: (text) => this.#lines.say(text),
      message: (message) => device.message?.(message),
    });
    this.features = features & ~this.datapath.withheld;
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
    // Whether there is a control queue, frontends do not tell.
    return this.#isNet ? all.filter(([, needs]) => needs !== VIRTIO_NET_F_CTRL_VQ) : all;
  }

  /**
   * What the device is told of the features that were negotiated. How many pairs there are is seen
   * by the rings that are enabled, whether a frontend passes VIRTIO_NET_F_MQ on or not.
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

  /** @param user undefined when the last one has let go of the queues: the device is reset */
  setUser(user: DeviceUser | undefined): void {
    this.#user = user;
    if (user === undefined) this.reset();
  }

  reset(): void {
    this.#config = Uint8Array.from(this.device.config);
    this.device.reset?.();
  }

  /**
   * The driver writes configuration.
   * @returns false when it may not write one of the bytes; nothing is written then
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
    // The device keeps what is its own, so that it is still true after a reset.
    const mask = this.device.configWriteMask;
    for (const at of own.keys()) {
      if ((mask?.[at] ?? 0) === 0) own[at] = this.#config[at] ?? 0;
    }
    this.#user?.configChanged();
  }

  readConfig(): Uint8Array {
    return Uint8Array.from(this.#config);
  }

  post(message: unknown, key?: string): void {
    this.datapath.post(message, key);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lines.flush();
    try {
      await this.datapath.close();
    } finally {
      this.device.close();
    }
  }
}
