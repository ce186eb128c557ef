/** The control half of a defined device. */

import { featureSet } from '../../abi/virtio-ring.ts';
import { UsageError } from '../../host/errors.ts';
import type {
  DeviceHost,
  HandlerThread,
  QueueHandler,
  QueueSpec,
  VirtioDevice,
} from '../device.ts';
import { ConfigFields } from './config-fields.ts';
import { type ConfigChange, type ConfigSnapshot, DefinedHandler } from './defined-handler.ts';
import type { DeviceDefinition } from './definition.ts';

/** PCI: unclassified device. */
const PCI_CLASS_OTHERS = 0x00ff00;
const DEFAULT_QUEUE_SIZE = 256;

/** Its carrier's settings. */
export interface DefinedDeviceOptions {
  /** Where its functions run. Default: the main thread. */
  readonly thread?: HandlerThread;
  readonly onClose?: () => void;
}

/** Makes a device from a definition. */
export class DefinedDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number;
  readonly pciClass: number;
  readonly features: bigint;
  readonly featureNames: Readonly<Record<number, string>>;
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array<ArrayBuffer>;
  readonly configWriteMask: Uint8Array;
  #thread: HandlerThread;
  #definition: DeviceDefinition;
  readonly #fields: ConfigFields;
  readonly #onClose: () => void;
  #host: DeviceHost | undefined;

  /** @param name for messages, e.g. `example0` */
  constructor(
    name: string,
    definition: DeviceDefinition,
    { thread = { kind: 'main' }, onClose = () => {} }: DefinedDeviceOptions = {},
  ) {
    this.#onClose = onClose;
    this.name = name;
    this.#definition = definition;
    this.#fields = new ConfigFields(definition.config);
    this.deviceId = definition.deviceId;
    this.pciClass = definition.pciClass ?? PCI_CLASS_OTHERS;
    this.features = featureSet(...Object.values(definition.features ?? {}));
    const named = Object.entries(definition.features ?? {});
    this.featureNames = Object.fromEntries(named.map(([feature, bit]) => [bit, feature]));
    this.queues = Object.entries(definition.queues).map(([queue, { size }]) => ({
      name: queue,
      maxSize: size ?? DEFAULT_QUEUE_SIZE,
    }));
    this.config = this.#fields.initial();
    this.configWriteMask = this.#fields.writeMask();
    this.#thread = thread;
  }

  get thread(): HandlerThread {
    return this.#thread;
  }

  /**
   * Whether other code may take over, since the guest has seen the device's shape.
   * @throws UsageError when it has other queues, features or fields
   */
  checkReplacement(definition: DeviceDefinition): void {
    const [is, was] = [definition, this.#definition].map((one) => JSON.stringify(shapeOf(one)));
    if (is === was) return;
    throw new UsageError(
      'E_DEVICE',
      'its device ID, features, configuration fields or queues changed, which the guest has seen',
      'restart the machine',
    );
  }

  /** Other code takes over; the queues are not served meanwhile. */
  replace(definition: DeviceDefinition, thread: HandlerThread): void {
    this.#definition = definition;
    this.#thread = thread;
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  createHandler(): QueueHandler {
    return new DefinedHandler(this.#definition);
  }

  configWritten(offset: number, length: number): void {
    const config = this.#host?.readConfig();
    if (config === undefined) return;
    for (const field of this.#fields.touched(offset, length)) {
      this.#host?.post({ config, written: field } satisfies ConfigSnapshot, field);
    }
  }

  message(message: unknown): void {
    const { field, value } = message as ConfigChange;
    this.#host?.updateConfig((config) => this.#fields.set(config, field, value));
  }

  close(): void {
    this.#onClose();
  }
}

/** The parts of a definition that a guest sees. Initial values stay those of the first definition. */
function shapeOf(definition: DeviceDefinition): unknown {
  const { deviceId, pciClass, features = {}, config = {}, queues } = definition;
  const fields = Object.entries(config).map(([name, { bytes, writable = false }]) => [
    name,
    bytes,
    writable,
  ]);
  const sizes = Object.entries(queues).map(([name, { size = DEFAULT_QUEUE_SIZE }]) => [name, size]);
  return [deviceId, pciClass, Object.entries(features), fields, sizes];
}
