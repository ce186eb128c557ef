/** A device whose queues another process serves: the control half (vhost-user.rst). */
import {
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  VHOST_USER_PROTOCOL_F_STATUS,
  VHOST_USER_RESET_DEVICE,
  VHOST_USER_SET_STATUS,
} from '../../abi/vhost-user.ts';
import * as ring from '../../abi/virtio-ring.ts';
import type { Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { PeerError, UsageError } from '../../host/errors.ts';
import type { DeviceHost, QueueSpec, VirtioDevice } from '../../virtio/device.ts';
import { featureSet, hasFeature } from '../../virtio/features.ts';
import { protocolError } from '../message.ts';
import { writeU64 } from '../payload.ts';
import { writeBackendConfig } from './backend-config.ts';
import type { DeviceKind } from './kind.ts';
import { type BackendAddress, BackendLink, type Session } from './link.ts';
import { type ServedDevice, VhostUserDatapath } from './vhost-user-datapath.ts';

/** Ring features that whoever serves the rings has to know; those that it lacks are not offered. */
const RING_FEATURES = featureSet(
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_RING_PACKED,
  ring.VIRTIO_F_IN_ORDER,
  ring.VIRTIO_F_NOTIFICATION_DATA,
  ring.VIRTIO_F_RING_RESET,
);

/** Owns the link to its backend. */
export class VhostUserDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number;
  readonly pciClass: number;
  readonly features: bigint;
  readonly featureDependencies: readonly (readonly [bit: number, needs: number])[];
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
  /** Not in this process: `createDatapath` has it. */
  readonly thread = { kind: 'main' } as const;
  readonly #kind: DeviceKind;
  readonly #link: BackendLink;
  /** All that its first backend could do. */
  readonly #backendFeatures: bigint;
  readonly #withheld: bigint;
  #host: DeviceHost | undefined;
  /** Ranges of the configuration that the driver wrote and the backend was not told of: by offset. */
  readonly #unwritten = new Map<number, number>();
  #writing = false;
  /** The backend said that its configuration is another one; and it is being asked for it. */
  #stale = false;
  #asking = false;

  /**
   * Connects to a backend, and asks what it has.
   * @param kindOf says what the device is by it
   * @throws UsageError or PeerError, in one line; nothing stays open then
   */
  static async open(
    name: string,
    address: BackendAddress,
    kindOf: (session: Session) => Promise<DeviceKind>,
  ): Promise<VhostUserDevice> {
    const link = await BackendLink.open(address);
    try {
      const { session } = link;
      if (session === undefined) throw protocolError('it left at once');
      if (!hasFeature(session.offer.features, ring.VIRTIO_F_VERSION_1)) {
        throw protocolError('it serves legacy drivers only (no VIRTIO_F_VERSION_1)');
      }
      return new VhostUserDevice(name, link, session, await kindOf(session));
    } catch (error) {
      link.close();
      if (!(error instanceof PeerError)) throw error;
      throw new UsageError('E_VHOST_USER', `${name}, ${address.socket}: ${error.message}`);
    }
  }

  private constructor(name: string, link: BackendLink, { offer }: Session, kind: DeviceKind) {
    this.name = name;
    this.deviceId = kind.deviceId;
    this.pciClass = kind.pciClass;
    this.features = kind.backendFeatures | kind.ownFeatures;
    this.featureDependencies = kind.featureDependencies ?? [];
    this.queues = kind.queues;
    this.config = kind.config;
    this.configWriteMask = kind.configWriteMask ?? new Uint8Array(kind.config.length);
    this.#kind = kind;
    this.#link = link;
    this.#backendFeatures = (kind.backendFeatures | RING_FEATURES) & offer.features;
    this.#withheld = RING_FEATURES & ~offer.features;
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  /** Gives the queues to the backend. */
  createDatapath(events: DatapathEvents): Datapath {
    const kind = this.#kind;
    const enable = (queue: number, enabled: boolean): void => datapath.enable(queue, enabled);
    const rest = kind.createRest?.(events, enable);
    const served: ServedDevice = {
      withheld: this.#withheld | (rest?.withheld ?? 0n),
      backendFeatures: this.#backendFeatures,
      queueCount: kind.servedQueues,
      queueSize: Math.max(...this.queues.map(({ maxSize }) => maxSize)),
      ...(rest === undefined ? {} : { rest }),
      isEnabled: (queue) => kind.isEnabled?.(queue) ?? true,
      refresh: (session) => this.#refresh(session),
    };
    const datapath = new VhostUserDatapath(this.#link, served, events);
    this.#link.events = {
      down: (error) => datapath.down(error),
      up: (session) => datapath.up(session),
      configChanged: () => this.#configChanged(),
    };
    return datapath;
  }

  configWritten(offset: number, length: number): void {
    this.#unwritten.set(offset, length);
    if (this.#link.session === undefined) this.#unwritten.clear();
    if (this.#writing || this.#unwritten.size === 0) return;
    this.#writing = true;
    this.#tell(async (session) => {
      try {
        await this.#writeConfig(session);
      } finally {
        this.#writing = false;
      }
    });
  }

  /** One order after the other: a driver writes faster than a backend may answer. */
  async #writeConfig({ connection }: Session): Promise<void> {
    for (;;) {
      const [range] = this.#unwritten;
      const config = this.#host?.readConfig();
      if (range === undefined || config === undefined) return;
      const [offset, length] = range;
      this.#unwritten.delete(offset);
      await writeBackendConfig(connection, offset, config.subarray(offset, offset + length));
    }
  }

  reset(): void {
    this.#kind.reset?.();
    this.#tell(async ({ connection }) => {
      const orders: Promise<void>[] = [];
      if (connection.has(VHOST_USER_PROTOCOL_F_RESET_DEVICE)) {
        orders.push(connection.order(VHOST_USER_RESET_DEVICE));
      }
      if (connection.has(VHOST_USER_PROTOCOL_F_STATUS)) {
        orders.push(connection.order(VHOST_USER_SET_STATUS, writeU64(0)));
      }
      await Promise.all(orders);
    });
  }

  close(): void {
    this.#link.close();
  }

  async #refresh(session: Session): Promise<void> {
    const { queues } = session.offer;
    const needed = this.#kind.servedQueues;
    if (this.#kind.countsPairs !== true && queues !== undefined && queues < needed) {
      throw protocolError(`it came back with ${queues} queues instead of ${needed}`);
    }
    await this.#showConfig(session);
  }

  /** One question is under way, and one more at most, whatever the backend says meanwhile. */
  #configChanged(): void {
    this.#stale = true;
    if (this.#asking || this.#link.session === undefined) return;
    this.#asking = true;
    this.#tell(async (session) => {
      try {
        while (this.#stale) {
          this.#stale = false;
          await this.#showConfig(session);
        }
      } finally {
        this.#asking = false;
      }
    });
  }

  /** Shows the driver what the backend has, as far as it is different. */
  async #showConfig(session: Session): Promise<void> {
    const config = await this.#kind.readConfig?.(session);
    const shown = this.#host?.readConfig();
    if (config === undefined || shown === undefined || Buffer.compare(config, shown) === 0) return;
    this.#host?.updateConfig((view) => {
      for (const [i, byte] of config.entries()) view.setUint8(i, byte);
    });
  }

  /** What fails ends the session, of which the datapath hears. */
  #tell(what: (session: Session) => Promise<void>): void {
    const { session } = this.#link;
    if (session !== undefined) what(session).catch(() => {});
  }
}
