/** A device whose queues another process serves: the control half (vhost-user.rst). */
import * as ring from '../../abi/virtio-ring.ts';
import { featureSet, hasFeature } from '../../abi/virtio-ring.ts';
import type { Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { InProcessDatapath } from '../../datapath/in-process.ts';
import { ShadowDatapath } from '../../datapath/shadow/shadow-datapath.ts';
import { PeerError, UsageError } from '../../host/errors.ts';
import type { BackendFacts, DeviceHost, QueueSpec, VirtioDevice } from '../../virtio/device.ts';
import type { BackendAddress, DeviceKind } from '../../virtio/frontend-device.ts';
import { protocolError } from '../message.ts';
import { BackendConnector } from './backend-connector.ts';
import type { FrontendSession } from './frontend-session.ts';
import { type FrontendDevice, VhostUserDatapath } from './vhost-user-datapath.ts';

/** Ring features that concern the backend; those that it lacks are not offered. */
const RING_FEATURES = featureSet(
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_RING_PACKED,
  ring.VIRTIO_F_IN_ORDER,
  ring.VIRTIO_F_NOTIFICATION_DATA,
  ring.VIRTIO_F_RING_RESET,
  ring.VIRTIO_F_ACCESS_PLATFORM,
);

/** Owns the connection to its backend. */
export class VhostUserDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number;
  readonly pciClass: number;
  readonly features: bigint;
  readonly featureDependencies: readonly (readonly [bit: number, needs: number])[];
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
  /** Not in this process: see `createDatapath`. */
  readonly thread = { kind: 'main' } as const;
  readonly #kind: DeviceKind;
  readonly #connector: BackendConnector;
  /** Of its first session. */
  readonly #backendFeatures: bigint;
  readonly #withheld: bigint;
  #host: DeviceHost | undefined;
  /** Lengths, by offset, of the driver's writes that the backend does not have yet. */
  readonly #unwritten = new Map<number, number>();
  #writing = false;
  /** The backend's configuration has changed; and it is being read. */
  #stale = false;
  #reading = false;

  /**
   * Connects to a backend.
   * @param kindOf finds out what the device is
   * @throws UsageError or PeerError
   */
  static async open(
    name: string,
    address: BackendAddress,
    kindOf: (session: FrontendSession) => Promise<DeviceKind>,
  ): Promise<VhostUserDevice> {
    const connector = await BackendConnector.open(address);
    try {
      const { session } = connector;
      if (session === undefined) throw protocolError('it left at once');
      if (!hasFeature(session.features, ring.VIRTIO_F_VERSION_1)) {
        throw protocolError('it supports legacy drivers only (no VIRTIO_F_VERSION_1)');
      }
      return new VhostUserDevice(name, connector, session, await kindOf(session));
    } catch (error) {
      connector.close();
      if (!(error instanceof PeerError)) throw error;
      throw new UsageError(
        'E_VHOST_USER',
        `${name}, ${address.socket}: ${error.problem}`,
        error.remedy,
      );
    }
  }

  private constructor(
    name: string,
    connector: BackendConnector,
    session: FrontendSession,
    kind: DeviceKind,
  ) {
    this.name = name;
    this.deviceId = kind.deviceId;
    this.pciClass = kind.pciClass;
    this.features = kind.backendFeatures | kind.ownFeatures;
    this.featureDependencies = kind.featureDependencies ?? [];
    this.queues = kind.queues;
    this.config = kind.config;
    this.configWriteMask = kind.configWriteMask ?? new Uint8Array(kind.config.length);
    this.#kind = kind;
    this.#connector = connector;
    this.#backendFeatures = (kind.backendFeatures | RING_FEATURES) & session.features;
    this.#withheld = RING_FEATURES & ~session.features;
  }

  get backend(): BackendFacts {
    const { address, session } = this.#connector;
    const copies = this.#sharesCopies ? { copies: true } : {};
    return { name: address.socket, gone: session === undefined, ...copies };
  }

  iommuProblem(): string | undefined {
    const { session } = this.#connector;
    // Addresses in copies are this process's.
    return this.#sharesCopies || session === undefined || session.hasIotlb
      ? undefined
      : 'its backend has no device IOTLB (VIRTIO_F_ACCESS_PLATFORM, VHOST_USER_PROTOCOL_F_BACKEND_REQ and REPLY_ACK)';
  }

  /** A backend has all guest RAM mapped, and is trusted to keep to what the IOMMU maps. */
  get iommuOnRequest(): string | undefined {
    return this.#sharesCopies
      ? undefined
      : 'a vhost-user backend is with iommu=on, or share=shadow';
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  /** The backend serves the queues, or shadows of them. */
  createDatapath(events: DatapathEvents): Datapath {
    const open = (given: DatapathEvents): Datapath => this.#createDatapath(given);
    if (!this.#sharesCopies) return open(events);
    return new ShadowDatapath(this.name, this.queues, open, events);
  }

  get #sharesCopies(): boolean {
    return this.#connector.address.share === 'shadow';
  }

  #createDatapath(events: DatapathEvents): Datapath {
    const kind = this.#kind;
    const enable = (queue: number, enabled: boolean): void => datapath.enable(queue, enabled);
    const handler = kind.createHandler?.(enable);
    const fallback = handler && new InProcessDatapath(() => handler, events);
    const device: FrontendDevice = {
      withheld: this.#withheld | (fallback?.withheld ?? 0n),
      backendFeatures: this.#backendFeatures,
      queueCount: kind.servedQueues,
      queueSize: Math.max(...this.queues.map(({ maxSize }) => maxSize)),
      ...(fallback === undefined ? {} : { fallback }),
      isEnabled: (queue) => kind.isEnabled?.(queue) ?? true,
      refresh: (session) => this.#refresh(session),
    };
    const datapath = new VhostUserDatapath(this.#connector, device, events);
    this.#connector.events = {
      disconnected: (error) => datapath.disconnected(error),
      reconnected: (session) => datapath.reconnected(session),
      configChanged: () => this.#configChanged(),
      askedIotlb: (message) => datapath.askedIotlb(message),
    };
    return datapath;
  }

  configWritten(offset: number, length: number): void {
    this.#unwritten.set(offset, length);
    if (this.#connector.session === undefined) this.#unwritten.clear();
    if (this.#writing || this.#unwritten.size === 0) return;
    this.#writing = true;
    this.#request(async (session) => {
      try {
        await this.#writeConfig(session);
      } finally {
        this.#writing = false;
      }
    });
  }

  /** One request after the other: a driver may write faster than the backend replies. */
  async #writeConfig(session: FrontendSession): Promise<void> {
    for (;;) {
      const [range] = this.#unwritten;
      const config = this.#host?.readConfig();
      if (range === undefined || config === undefined) return;
      const [offset, length] = range;
      this.#unwritten.delete(offset);
      await session.setConfig(offset, config.subarray(offset, offset + length));
    }
  }

  reset(): void {
    this.#kind.reset?.();
    this.#request((session) => session.reset());
  }

  close(): void {
    this.#connector.close();
  }

  async #refresh(session: FrontendSession): Promise<void> {
    const { maxQueues } = session;
    const needed = this.#kind.servedQueues;
    if (this.#kind.countsPairs !== true && maxQueues !== undefined && maxQueues < needed) {
      throw protocolError(`it came back with ${maxQueues} queues instead of ${needed}`);
    }
    await this.#showConfig(session);
  }

  /** One read is in flight, followed by at most one, however often the backend reports changes. */
  #configChanged(): void {
    this.#stale = true;
    if (this.#reading || this.#connector.session === undefined) return;
    this.#reading = true;
    this.#request(async (session) => {
      try {
        while (this.#stale) {
          this.#stale = false;
          await this.#showConfig(session);
        }
      } finally {
        this.#reading = false;
      }
    });
  }

  /** Updates what the driver sees, and notifies it, if the configuration differs. */
  async #showConfig(session: FrontendSession): Promise<void> {
    const config = await this.#kind.readConfig?.(session);
    const shown = this.#host?.readConfig();
    if (config === undefined || shown === undefined || Buffer.compare(config, shown) === 0) return;
    this.#host?.updateConfig((view) => {
      for (const [i, byte] of config.entries()) view.setUint8(i, byte);
    });
  }

  /** A failure ends the session, which the datapath handles. */
  #request(make: (session: FrontendSession) => Promise<void>): void {
    const { session } = this.#connector;
    if (session !== undefined) make(session).catch(() => {});
  }
}
