/** A virtio device of a machine in a virtio-pci rig, with a datapath that a test holds back and fails. */
import type { Activation, Datapath, DatapathEvents } from '../../../src/datapath/datapath.ts';
import type { PluggedBoard } from '../../../src/machine/devices/machine-device.ts';
import { ResourceAllocator } from '../../../src/machine/devices/resource-allocator.ts';
import { VirtioMachineDevice } from '../../../src/machine/devices/virtio-device.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import type { SharedState } from '../../../src/state/shared-state.ts';
import type { DeviceHost, VirtioDevice } from '../../../src/virtio/device.ts';
import type { VringState } from '../../../src/virtio/queue/virtqueue.ts';
import type { VirtioMmio } from '../../../src/virtio/transport/mmio.ts';
import type { VirtioPci } from '../../../src/virtio/transport/pci.ts';
import { type RigOptions, VirtioPciRig } from './virtio-pci.ts';

/** A datapath that records, and stops on request. */
export class FakeDatapath implements Datapath {
  withheld = 0n;
  readonly calls: string[];
  readonly posted: unknown[] = [];
  last: Activation | undefined;
  failStart: Error | undefined;
  failStop: Error | undefined;
  /** Set to hold `stop` back until it is called. */
  release: (() => void) | undefined;
  holdStop = false;
  /** The first queue's position when it is stopped; the others follow. */
  at = 10;
  readonly events: DatapathEvents;
  #stopping: () => void = () => {};
  /** Resolves when `stop` was called while it is held back. */
  readonly stopping = new Promise<void>((resolve) => {
    this.#stopping = resolve;
  });

  /** @param calls the record it appends to */
  constructor(events: DatapathEvents, calls: string[] = []) {
    this.calls = calls;
    this.events = events;
  }
  async start(activation: Activation): Promise<void> {
    this.last = activation;
    const queues = activation.queues.map(
      ({ index, state }) => `${index}${state === undefined ? '' : `@${state.nextAvail}`}`,
    );
    this.calls.push(`start ${queues.join(' ')}`);
    if (this.failStart !== undefined) throw this.failStart;
  }
  async stop(): Promise<ReadonlyMap<number, VringState>> {
    this.calls.push('stop');
    if (this.failStop !== undefined) throw this.failStop;
    if (this.holdStop) {
      this.#stopping();
      await new Promise<void>((resolve) => {
        this.release = resolve;
      });
    }
    const queues = this.last?.queues ?? [];
    return new Map(
      queues.map(({ index }) => [index, { nextAvail: this.at + index, nextUsed: this.at + index }]),
    );
  }
  post(message: unknown): void {
    this.posted.push(message);
  }
  async close(): Promise<void> {
    this.calls.push('close');
  }
  take(): string[] {
    return this.calls.splice(0);
  }
}

/** A rig's only device, whatever is planned, as a device of a machine finds it on its board. */
export function boardOf(rig: {
  readonly state: SharedState;
  readonly device: VirtioPci | VirtioMmio;
}): PluggedBoard {
  const address = { kind: 'function', slot: 1, pciFunction: undefined };
  const device = (): unknown => ({ address, registers: rig.device });
  return { state: rig.state, vmFd: -1, device } as unknown as PluggedBoard;
}

/** A virtio device of a machine, in a rig's slot 1. */
export class OwnerRig implements AsyncDisposable {
  readonly rig: VirtioPciRig;
  readonly ram = new Ram(MiB);
  readonly calls: string[] = [];
  readonly logs: string[] = [];
  readonly device: VirtioDevice;
  readonly owner: VirtioMachineDevice;
  readonly #resources = new ResourceAllocator('io');
  /** The latest. */
  datapath: FakeDatapath;
  /** Once it was requested. */
  vhost: FakeDatapath | undefined;
  vhostError: Error | undefined;
  vhostFailStart: Error | undefined;
  vhostWithholds = 0n;
  host: DeviceHost | undefined;
  #unplugged = false;

  constructor(options: RigOptions = {}) {
    this.rig = new VirtioPciRig(options);
    let datapath: FakeDatapath | undefined;
    this.device = {
      name: 'test0',
      deviceId: 42,
      pciClass: 0,
      features: 0n,
      queues: this.rig.shape.queueSizes.map((maxSize, index) => ({ name: `q${index}`, maxSize })),
      config: Uint8Array.from(this.rig.shape.config),
      thread: { kind: 'main' },
      vhost: { kind: 'net', taps: [] },
      attach: (host) => {
        this.host = host;
      },
      configWritten: (offset, length) => {
        this.calls.push(`config ${offset}+${length}`);
      },
      emergencyWritten: (bytes) => {
        this.calls.push(`emergency ${bytes.length}`);
      },
      message: (message) => {
        this.calls.push(`message ${message}`);
      },
      reset: () => {
        this.calls.push('reset');
      },
      close: () => {
        this.calls.push('close');
      },
    };
    this.owner = new VirtioMachineDevice(
      this.device,
      { transport: 'pci' },
      (text) => this.logs.push(text),
      new Map([
        [
          'userspace',
          (events) => {
            const before: FakeDatapath | undefined = datapath;
            datapath = new FakeDatapath(events, before?.calls);
            // The first one is made before the rig has its field.
            if (before !== undefined) this.datapath = datapath;
            return datapath;
          },
        ],
        [
          'vhost',
          (events) => {
            if (this.vhostError !== undefined) throw this.vhostError;
            this.vhost = new FakeDatapath(events);
            this.vhost.withheld = this.vhostWithholds;
            this.vhost.failStart = this.vhostFailStart;
            return this.vhost;
          },
        ],
      ]),
    );
    this.datapath = datapath as unknown as FakeDatapath;
    this.plug();
  }

  plug(): void {
    this.owner.plan(this.#resources);
    this.owner.plug(boardOf(this.rig), this.ram.memory.share);
  }

  /** Hands the rig's events to the owner, as the board's messages, and waits until all is done. */
  async settle(): Promise<void> {
    this.deliver();
    await this.settled();
  }

  /** Hands the messages of the rig's device over. Returns how many there were. */
  deliver(): number {
    const { messages } = this.rig;
    this.rig.messages = 0;
    for (let i = 0; i < messages; i++) this.owner.message({ kind: 'changed', device: 0 });
    return messages;
  }

  async settled(): Promise<void> {
    // Steps of the owner run one after the other: one that does nothing ends after all others.
    await this.owner.moveTo(this.owner.datapath);
  }

  get status(): number {
    return this.rig.common('device_status');
  }

  async unplug(): Promise<void> {
    if (this.#unplugged) return;
    this.#unplugged = true;
    await this.owner.unplug();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unplug();
    await this.owner.close();
    this.rig[Symbol.dispose]();
    this.ram[Symbol.dispose]();
    this.#resources.close();
  }
}
