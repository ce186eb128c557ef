/** The places where one device's queues can be served, and the one that is chosen. */
import { createDatapath } from '../../datapath/create-datapath.ts';
import type { Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { UsageError } from '../../host/errors.ts';
import { VhostDatapath } from '../../vhost/vhost-datapath.ts';
import { openVhostUnits } from '../../vhost/vhost-unit.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import type { VhostSpec, VirtioDevice } from '../../virtio/device.ts';
import { hasFeature } from '../../virtio/features.ts';

/**
 * `userspace`: the device's own data half, in this process. `vhost`: the host kernel. `vhost-user`:
 * another process, for devices that live there only.
 */
export type DatapathName = 'userspace' | 'vhost' | 'vhost-user';

/** Makes datapaths. */
export interface OpenDatapaths {
  /** The device's own. */
  userspace(device: VirtioDevice, events: DatapathEvents): Datapath;
  /** @param rest serves what the kernel does not */
  vhost(spec: VhostSpec, rest: Datapath, events: DatapathEvents): Datapath;
}

const REAL: OpenDatapaths = {
  userspace: (device, events) =>
    device instanceof VhostUserDevice
      ? device.createDatapath(events)
      : createDatapath(device, events),
  vhost: (spec, rest, events) => new VhostDatapath(openVhostUnits(spec), rest, events),
};

/** Owns a device's datapaths. */
export class DatapathChoice {
  readonly #device: VirtioDevice;
  readonly #events: DatapathEvents;
  readonly #open: OpenDatapaths;
  #userspace: Datapath;
  #vhost: Datapath | undefined;
  #name: DatapathName;

  constructor(device: VirtioDevice, events: DatapathEvents, open: OpenDatapaths = REAL) {
    this.#device = device;
    this.#events = events;
    this.#open = open;
    this.#name = device instanceof VhostUserDevice ? 'vhost-user' : 'userspace';
    this.#userspace = open.userspace(device, events);
  }

  get name(): DatapathName {
    return this.#name;
  }

  /** The chosen one. */
  get current(): Datapath {
    return this.#name === 'vhost' ? this.#openVhost() : this.#userspace;
  }

  /** @throws UsageError when `choose` could not be followed, with these features negotiated */
  check(name: DatapathName, features: bigint): void {
    if (this.#device instanceof VhostUserDevice || name === 'vhost-user') {
      const why =
        name === 'vhost-user' ? 'lives in this process and' : 'lives in another process and';
      throw new UsageError('E_VHOST_USER', `${this.#device.name} ${why} cannot move to ${name}`);
    }
    const { withheld } = name === 'vhost' ? this.#openVhost() : this.#userspace;
    const missing = features & withheld;
    if (missing === 0n) return;
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((b) => hasFeature(missing, b));
    throw new UsageError(
      'E_FEATURES',
      `${this.#device.name}: ${name} cannot serve what the driver negotiated (feature bits ${bits.join(', ')}); start the machine with ${name}=on, which does not offer them`,
    );
  }

  /** Neither one is started. */
  choose(name: DatapathName): void {
    this.#name = name;
  }

  /**
   * Gives back what serves no queue any more. The kernel may hold more than the rings: with
   * vhost-vsock the guest's connections, whose programs learn of their end by it.
   */
  async releaseOthers(): Promise<void> {
    if (this.#name === 'vhost') return;
    const vhost = this.#vhost;
    this.#vhost = undefined;
    await vhost?.close();
  }

  /** The device's own data half is another one now. Nothing is started. */
  async renew(): Promise<void> {
    await this.#userspace.close();
    this.#userspace = this.#open.userspace(this.#device, this.#events);
  }

  async close(): Promise<void> {
    try {
      await this.#vhost?.close();
    } finally {
      await this.#userspace.close();
    }
  }

  #openVhost(): Datapath {
    const { vhost, name } = this.#device;
    if (vhost === undefined) {
      throw new UsageError('E_VHOST', `${name}: vhost serves no device of this kind`);
    }
    this.#vhost ??= this.#open.vhost(vhost, this.#userspace, this.#events);
    return this.#vhost;
  }
}
