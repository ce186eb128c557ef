/** The driver's part for a device of `defineDevice`: features, configuration space, requests. No KVM, no guest. */
import { featureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '../abi/virtio-ring.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { describeError, PeerError, UsageError } from '../host/errors.ts';
import type { DeviceHost } from '../virtio/device.ts';
import { ConfigFields } from '../virtio/device-sdk/config-fields.ts';
import { DefinedDevice } from '../virtio/device-sdk/defined-device.ts';
import type { DeviceDefinition, DeviceFactory } from '../virtio/device-sdk/definition.ts';
import { DeviceRig } from './device-rig.ts';
import type { BufferRequest, CompletedBuffer } from './driver-queue.ts';

/** How long an answer may take before the test fails. */
const DEADLINE_MS = 10_000;

/** What the driver does at start-up. */
export interface TestDriverOptions {
  /** The device's own options. */
  readonly options?: Readonly<Record<string, string>>;
  /** Features that it accepts, by the definition's names. Default: all. */
  readonly features?: readonly string[];
  /** Use packed virtqueues (virtio 1.3 §2.8). Default false: split ones (§2.7). */
  readonly packed?: boolean;
}

/** From DRIVER_OK until it is disposed. */
export class TestDriver extends Closeable {
  /** The underlying queues, to inspect and to corrupt. */
  readonly rig: DeviceRig;
  /** Configuration change notifications received. */
  configChanges = 0;
  readonly #definition: DeviceDefinition;
  readonly #device: DefinedDevice;
  readonly #fields: ConfigFields;
  readonly #config: Uint8Array<ArrayBuffer>;
  readonly #queues: readonly string[];
  /** Used buffers that `answer` has not returned yet. */
  readonly #completed = new Map<string, CompletedBuffer>();
  #failure: string | undefined;
  #posted = 0;

  /** @param factory what `defineDevice` returned */
  constructor(factory: DeviceFactory, options: TestDriverOptions = {}) {
    super();
    this.#definition = factory(options.options ?? {});
    this.#queues = Object.keys(this.#definition.queues);
    this.#fields = new ConfigFields(this.#definition.config);
    this.#config = this.#fields.initial();
    this.#device = new DefinedDevice('device', this.#definition);
    this.rig = new DeviceRig();
    this.#device.attach(this.#host());
    const sizes = this.#device.queues.map(({ maxSize }) => maxSize);
    this.#guard(() => {
      this.rig.start(this.#device.createHandler(), this.#features(options), sizes, this.#config);
    });
  }

  /** Why the device needs a reset (DEVICE_NEEDS_RESET), if it does. */
  get needsReset(): string | undefined {
    return this.rig.brokenReason ?? this.#failure;
  }

  /** What the device logged. */
  get logs(): readonly string[] {
    return this.rig.logs;
  }

  /** A field of the configuration space, as the driver reads it. */
  readConfig(field: string): number {
    this.#deliver();
    return this.#fields.get(new DataView(this.#config.buffer), field);
  }

  /** The driver writes a field. @throws UsageError when the field is read-only */
  writeConfig(field: string, value: number): void {
    if (this.#definition.config?.[field]?.writable !== true) {
      throw new UsageError('E_CONFIG', `the driver cannot write the field ${field}`);
    }
    this.#fields.set(new DataView(this.#config.buffer), field, value);
    this.#guard(() => this.rig.message({ config: this.#config, written: [field] }));
  }

  /**
   * Makes a buffer available and notifies the device, without waiting.
   * @returns what `answer` takes
   */
  send(queue: string, request: BufferRequest): string {
    const index = this.#index(queue);
    const token = this.rig.queue(index).add(request);
    this.#guard(() => this.rig.kick(index));
    return `${index}.${token}`;
  }

  /** Resolves to what the device did with a buffer. @throws PeerError when it broke, or after ten seconds */
  async answer(sent: string): Promise<CompletedBuffer> {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
      this.#collect();
      const answer = this.#completed.get(sent);
      if (answer !== undefined) {
        this.#completed.delete(sent);
        return answer;
      }
      if (this.needsReset !== undefined) {
        throw new PeerError('E_NEEDS_RESET', `the device needs a reset: ${this.needsReset}`);
      }
      if (Date.now() > deadline) {
        throw new PeerError('E_NO_ANSWER', 'the device gave no answer in ten seconds');
      }
      await new Promise((turn) => setTimeout(turn, 0));
    }
  }

  /**
   * Sends one buffer and waits for the answer.
   * @param bytes for the device to read
   * @param room bytes that it may write. Default none
   * @returns what it wrote
   */
  async request(queue: string, bytes: Uint8Array, room = 0): Promise<Uint8Array> {
    const readable = bytes.length === 0 ? [] : [bytes];
    const sent = this.send(queue, { readable, writable: room === 0 ? [] : [room] });
    return (await this.answer(sent)).data;
  }

  close(): void {
    this.rig.close();
    this.#device.close();
  }

  #features({ features, packed = false }: TestDriverOptions): bigint {
    const offered = this.#definition.features ?? {};
    const bits = (features ?? Object.keys(offered)).map((name) => {
      const bit = offered[name];
      if (bit !== undefined) return bit;
      throw new UsageError('E_FEATURES', `the device offers no feature ${name}`);
    });
    return featureSet(VIRTIO_F_VERSION_1, ...(packed ? [VIRTIO_F_RING_PACKED] : []), ...bits);
  }

  #index(queue: string): number {
    const index = this.#queues.indexOf(queue);
    if (index >= 0) return index;
    const names = this.#queues.join(', ');
    throw new UsageError('E_RIG_QUEUE', `the device has no queue ${queue}`, `it has ${names}`);
  }

  /** An exception in the device's code breaks the device, as in a machine. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#failure ??= describeError(error);
    }
    this.#deliver();
  }

  #collect(): void {
    this.#guard(() => this.rig.pump());
    for (const index of this.#queues.keys()) {
      for (const buffer of this.rig.queue(index).completed()) {
        this.#completed.set(`${index}.${buffer.token}`, buffer);
      }
    }
  }

  /** Delivers messages of the handler to the device. */
  #deliver(): void {
    for (const message of this.rig.posted.slice(this.#posted)) this.#device.message(message);
    this.#posted = this.rig.posted.length;
  }

  #host(): DeviceHost {
    return {
      readConfig: () => this.#config,
      updateConfig: (change) => {
        change(new DataView(this.#config.buffer));
        this.configChanges += 1;
      },
      post: (message) => this.rig.message(message),
    };
  }
}
