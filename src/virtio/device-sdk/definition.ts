/**
 * A virtio device in a page of code: what its author writes, and what its functions are given.
 * `defineDevice` checks it; `DefinedDevice` and `DefinedHandler` turn it into a device for any
 * carrier.
 */
import { UsageError } from '../../host/errors.ts';

/** A field of the configuration space: 1, 2, 4 or 8 bytes, little-endian (virtio 1.3 §2.5). */
export interface ConfigField {
  readonly bytes: 1 | 2 | 4 | 8;
  /** At power-on. Default 0. */
  readonly initial?: number;
  /** Whether the driver may write it. Default false. */
  readonly writable?: boolean;
}

/** One request of the driver: a descriptor chain (§2.6). Valid until it is answered. */
export interface DeviceRequest {
  /** Bytes that the driver lets the device read, and write. */
  readonly readableLength: number;
  readonly writableLength: number;
  /**
   * Copies out of the readable part.
   * @param position first byte, default 0
   * @param length default: everything from there on
   * @throws UsageError when that is more than 16 MiB: a driver can repeat the same memory
   */
  read(position?: number, length?: number): Uint8Array;
  /**
   * Copies into the writable part, and tracks how far it reached.
   * @param position first byte, default: where the last write ended
   * @throws UsageError when the driver gave less room
   */
  write(bytes: Uint8Array, position?: number): void;
  /**
   * A little-endian number of the readable part; of 8 bytes, values are exact below 2^53.
   * @throws UsageError when the driver gave less
   */
  readUint(position: number, bytes: 1 | 2 | 4 | 8): number;
  /**
   * Writes a little-endian number as `write` would.
   * @throws UsageError when the driver gave less room
   */
  writeUint(value: number, bytes: 1 | 2 | 4 | 8, position?: number): void;
  /**
   * The readable part in guest memory, segment by segment: nothing is copied, and the
   * driver may change it meanwhile. Not to be used once the request is answered.
   * @param position first byte, default 0
   * @param length default: everything from there on
   */
  readParts(position?: number, length?: number): Uint8Array[];
  /**
   * The next bytes of the writable part in guest memory, to be filled; they count as written.
   * @param position first byte, default: where the last write ended
   * @throws UsageError when the driver gave less room
   */
  writeParts(length: number, position?: number): Uint8Array[];
}

/** The operations that a definition's functions have on the device. */
export interface DeviceControl {
  /** Whether the driver accepted a feature, by the definition's own name. */
  has(feature: string): boolean;
  /** A field of the current configuration space. */
  getConfig(field: string): number;
  /** Changes a field; the driver gets a configuration change notification (§4.1.5.3). */
  setConfig(field: string, value: number): void;
  /** A line for the user; repeats of it are logged once a minute at most. */
  log(text: string): void;
}

/** One queue, by its name in the definition; their order is that of their indices. */
export interface QueueDefinition {
  /** Descriptors at most, a power of two. Default 256. */
  readonly size?: number;
  /**
   * Serves a request, which is answered when the function returns, or when its promise resolves:
   * out of order, too. An exception breaks the device (DEVICE_NEEDS_RESET, §2.1.2), which
   * restarts when the driver resets it.
   */
  handle(request: DeviceRequest, device: DeviceControl): void | Promise<void>;
}

/** A device. */
export interface DeviceDefinition {
  /** Device ID (§5); 42 and other IDs that §5 does not assign are free for experiments. */
  readonly deviceId: number;
  /** 24 bits, for PCI. Default: unclassified. */
  readonly pciClass?: number;
  /** Bit numbers of device-specific features by name: 0 to 23, and 50 to 63 (§2.2). */
  readonly features?: Readonly<Record<string, number>>;
  /** Fields of the configuration space, in order, without gaps. */
  readonly config?: Readonly<Record<string, ConfigField>>;
  readonly queues: Readonly<Record<string, QueueDefinition>>;
  /** The driver is ready (DRIVER_OK). */
  start?(device: DeviceControl): void;
  /** The driver wrote a writable field; of several writes in quick succession only the last may be reported. */
  configWritten?(field: string, value: number, device: DeviceControl): void;
  /** The queues are no longer served: a reset, a pause, or the end. */
  stop?(): void;
}

/** The user's options, `key=value`. */
export type DeviceOptions = Readonly<Record<string, string>>;

/** Makes a definition, for each device and each thread that uses it. */
export type DeviceFactory = (options: DeviceOptions) => DeviceDefinition;

/**
 * Declares a device: the default export of a device's module.
 * @param definition the device, or a function that makes it from options
 */
export function defineDevice(definition: DeviceDefinition | DeviceFactory): DeviceFactory {
  return (options) =>
    checkDefinition(typeof definition === 'function' ? definition(options) : definition);
}

const MAX_DEVICE_ID = 63;
const MAX_QUEUES = 64;
const MAX_CONFIG = 4096;

/** @throws UsageError when no carrier supports it */
function checkDefinition(definition: DeviceDefinition): DeviceDefinition {
  const { deviceId, features = {}, config = {}, queues } = definition;
  const must = (holds: boolean, what: string): void => {
    if (!holds) throw new UsageError('E_DEVICE', `this device cannot be: ${what}`);
  };
  // PCI device IDs 0x1040 to 0x107f (§4.1.2).
  must(
    Number.isInteger(deviceId) && deviceId > 0 && deviceId <= MAX_DEVICE_ID,
    `deviceId ${deviceId} is not 1 to ${MAX_DEVICE_ID} (virtio 1.3 §4.1.2)`,
  );
  for (const [name, bit] of Object.entries(features)) {
    const own = Number.isInteger(bit) && ((bit >= 0 && bit < 24) || (bit >= 50 && bit < 64));
    must(own, `feature ${name} is bit ${bit}, not 0 to 23 or 50 to 63 (virtio 1.3 §2.2)`);
  }
  const count = Object.keys(queues).length;
  must(count > 0 && count <= MAX_QUEUES, `it has ${count} queues, not 1 to ${MAX_QUEUES}`);
  for (const [name, { size = 1, handle }] of Object.entries(queues)) {
    const valid = Number.isInteger(size) && size > 0 && size <= 32768 && (size & (size - 1)) === 0;
    must(valid, `queue ${name} has ${size} descriptors, not a power of two up to 32768 (§2.7)`);
    must(typeof handle === 'function', `queue ${name} has no function handle(request)`);
  }
  const size = Object.values(config).reduce((sum, { bytes }) => sum + bytes, 0);
  must(size <= MAX_CONFIG, `its configuration space has ${size} bytes, not up to ${MAX_CONFIG}`);
  for (const [name, { bytes }] of Object.entries(config)) {
    must([1, 2, 4, 8].includes(bytes), `config field ${name} has ${bytes} bytes, not 1, 2, 4 or 8`);
  }
  return definition;
}
