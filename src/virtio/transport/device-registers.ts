/**
 * The registers that every transport has, under whatever name: device status, feature bits,
 * queue set-up, configuration space (virtio 1.3 §2.1 to §2.6, §3). They lie in the state buffer;
 * all methods run with the register lock held, in any thread.
 */
import {
  DEVICE_NEEDS_RESET,
  DRIVER_OK,
  FEATURES_OK,
  VIRTIO_MSI_NO_VECTOR,
} from '../../abi/virtio-pci.ts';
import {
  hasFeature,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../abi/virtio-ring.ts';
import type { InterruptController } from '../../bus/interrupt-controller.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { QueueConfig } from '../queue/virtqueue.ts';
import { ConfigSpace } from './config-space.ts';
import type { DeviceShape, DriverEvents } from './transport.ts';

/** DRIVER_OK was set. */
export const CHANGE_DRIVER_OK = 1;
/** 0 was written to the status; it reads back as before until `completeReset`. */
export const CHANGE_RESET = 2;
/**
 * A queue was enabled after DRIVER_OK (VIRTIO_F_RING_RESET), or is being reset: that reads back as
 * ongoing until `completeQueueReset`.
 */
export const CHANGE_QUEUES = 4;
/** Served queues now interrupt elsewhere. */
export const CHANGE_INTERRUPTS = 8;
/** Writable bytes of the configuration were written. */
export const CHANGE_CONFIG = 16;

/** Words of the device; the queues' words follow. */
const STATUS = 0;
const DEVICE_FEATURE_SELECT = 1;
const DRIVER_FEATURE_SELECT = 2;
const DRIVER_FEATURE = 3;
const CONFIG_VECTOR = 5;
const QUEUE_SELECT = 6;
const ISR = 7;
/** The owner was notified of DRIVER_OK, so that a reset must wait for it. */
const ACTIVE = 8;
const RESETTING = 9;
const QUEUES = 16;

/** Words of one queue, to be used with `queueWord` and `setQueueWord`. */
export const QUEUE_SIZE = 0;
export const QUEUE_VECTOR = 1;
export const QUEUE_ENABLE = 2;
export const QUEUE_RESET = 3;
/** Two words each: low, high. */
export const QUEUE_DESC = 4;
export const QUEUE_DRIVER = 6;
export const QUEUE_DEVICE = 8;
/** The owner is asked to stop serving the queue, which keeps its other registers (§4.2.2.2). */
const QUEUE_STOPPING = 10;
const QUEUE_WORDS = 16;

/** Waits for another thread, with the lock released. */
type RegisterLockWait = Pick<InterruptController, 'waitWhile'>;

/** All status bits that a driver may set (§2.1). */
const DRIVER_STATUS_BITS = 0x8f;

/** One device's registers. */
export class DeviceRegisters {
  readonly shape: DeviceShape;
  readonly queueCount: number;
  readonly config: ConfigSpace;
  /** For the owner to take. */
  readonly changes: PendingChanges;
  readonly #words: Int32Array;
  readonly #events: DriverEvents;
  readonly #wasReset: () => void;

  /** @param wasReset called whenever a reset has completed, for the transport's own state */
  constructor(
    state: SharedState,
    shape: DeviceShape,
    events: DriverEvents,
    wasReset: () => void = () => {},
  ) {
    this.#wasReset = wasReset;
    this.shape = shape;
    this.queueCount = shape.queueSizes.length;
    this.#events = events;
    this.#words = state.words(QUEUES + this.queueCount * QUEUE_WORDS);
    this.changes = new PendingChanges(state, () => events.changed());
    this.config = new ConfigSpace(state, shape, events.observer);
  }

  /** Power-on state. The device is not being served. */
  powerOn(): void {
    this.config.powerOn();
    this.completeReset();
  }

  get status(): number {
    return this.#get(STATUS);
  }

  /** The driver writes the status (§3.1.1, §2.1.1). */
  writeStatus(value: number): void {
    const before = this.status;
    const accepted = this.driverFeatures;
    this.#writeStatus(value);
    this.#events.observer?.({ what: 'status', before, value, after: this.status, accepted });
  }

  #writeStatus(value: number): void {
    if (value === 0) {
      this.#requestReset();
      return;
    }
    if (this.#get(RESETTING) === 1) return;
    const old = this.status;
    // Drivers never clear a bit (§2.1.1); an attempt is ignored.
    let next = old | (value & DRIVER_STATUS_BITS);
    if ((old & FEATURES_OK) === 0 && (next & FEATURES_OK) !== 0 && !this.#featuresValid()) {
      next &= ~FEATURES_OK;
    }
    if ((next & DRIVER_OK) !== 0 && (next & FEATURES_OK) === 0) next &= ~DRIVER_OK;
    this.#words[STATUS] = next;
    if ((old & DRIVER_OK) !== 0 || (next & DRIVER_OK) === 0) return;
    this.#words[ACTIVE] = 1;
    this.changes.add(CHANGE_DRIVER_OK);
  }

  /** Marks the device as broken (§2.1.2). Returns false when it was already. */
  setNeedsReset(): boolean {
    if ((this.status & DEVICE_NEEDS_RESET) !== 0) return false;
    this.#words[STATUS] = this.status | DEVICE_NEEDS_RESET;
    this.#events.observer?.({ what: 'needs reset' });
    return true;
  }

  /** The device works again although the driver did not reset it. */
  clearNeedsReset(): void {
    this.#words[STATUS] = this.status & ~DEVICE_NEEDS_RESET;
  }

  /** The owner released the queues: all registers take their initial values (§2.4.1). */
  completeReset(): void {
    this.#words.fill(0);
    this.#words[CONFIG_VECTOR] = VIRTIO_MSI_NO_VECTOR;
    for (let queue = 0; queue < this.queueCount; queue++) this.completeQueueReset(queue);
    this.#wasReset();
    this.#events.observer?.({ what: 'reset completed' });
    Atomics.notify(this.#words, RESETTING);
  }

  /** Returns when no reset is in progress, with the lock released meanwhile: not on the owner's thread. */
  awaitReset(lock: RegisterLockWait): void {
    lock.waitWhile(this.#words, RESETTING, 1);
  }

  /** True from DRIVER_OK until 0 is written to the status. */
  get isActive(): boolean {
    return this.#get(ACTIVE) === 1 && this.#get(RESETTING) === 0;
  }

  /** True while `completeReset` is awaited. */
  get isResetting(): boolean {
    return this.#get(RESETTING) === 1;
  }

  /** True while `completeQueueReset` is awaited. */
  isQueueResetting(queue: number): boolean {
    return this.queueWord(queue, QUEUE_RESET) === 1 || this.queueWord(queue, QUEUE_STOPPING) === 1;
  }

  /** The queues for which `completeQueueReset` is awaited. */
  queuesResetting(): number[] {
    const all = Array.from({ length: this.queueCount }, (_, queue) => queue);
    return all.filter((queue) => this.isQueueResetting(queue));
  }

  /** The owner released one queue (§2.6.1.1). */
  completeQueueReset(queue: number): void {
    const at = QUEUES + queue * QUEUE_WORDS;
    const words = this.#words;
    if (words[at + QUEUE_STOPPING] === 1 && words[at + QUEUE_RESET] === 0) {
      words[at + QUEUE_STOPPING] = 0;
      words[at + QUEUE_ENABLE] = 0;
    } else {
      words.fill(0, at, at + QUEUE_WORDS);
      words[at + QUEUE_SIZE] = this.shape.queueSizes[queue] ?? 0;
      words[at + QUEUE_VECTOR] = VIRTIO_MSI_NO_VECTOR;
    }
    Atomics.notify(words, at + QUEUE_STOPPING);
    Atomics.notify(words, at + QUEUE_RESET);
  }

  get deviceFeatureSelect(): number {
    return this.#get(DEVICE_FEATURE_SELECT) >>> 0;
  }
  set deviceFeatureSelect(value: number) {
    this.#words[DEVICE_FEATURE_SELECT] = value;
  }
  get driverFeatureSelect(): number {
    return this.#get(DRIVER_FEATURE_SELECT) >>> 0;
  }
  set driverFeatureSelect(value: number) {
    this.#words[DRIVER_FEATURE_SELECT] = value;
  }
  get queueSelect(): number {
    return this.#get(QUEUE_SELECT);
  }
  set queueSelect(value: number) {
    this.#words[QUEUE_SELECT] = value;
  }
  get configVector(): number {
    return this.#get(CONFIG_VECTOR);
  }
  set configVector(value: number) {
    this.#words[CONFIG_VECTOR] = value;
  }

  /** 32 offered feature bits, by the selector. */
  readDeviceFeature(): number {
    const select = this.deviceFeatureSelect;
    const bits =
      select > 1 ? 0 : Number((this.shape.features >> BigInt(32 * select)) & 0xffff_ffffn);
    this.#events.observer?.({ what: 'features read', select, bits });
    return bits;
  }

  /** 32 accepted feature bits, by the selector. */
  readDriverFeature(): number {
    const select = this.driverFeatureSelect;
    return select > 1 ? 0 : this.#get(DRIVER_FEATURE + select) >>> 0;
  }

  /** Accepts feature bits; ignored once FEATURES_OK is set (§3.1.1). */
  writeDriverFeature(value: number): void {
    const select = this.driverFeatureSelect;
    const { status } = this;
    this.#events.observer?.({ what: 'features written', select, bits: value, status });
    if (select > 1 || (status & FEATURES_OK) !== 0) return;
    this.#words[DRIVER_FEATURE + select] = value;
  }

  /** The accepted feature bits. */
  get driverFeatures(): bigint {
    const low = BigInt(this.#get(DRIVER_FEATURE) >>> 0);
    return low | (BigInt(this.#get(DRIVER_FEATURE + 1) >>> 0) << 32n);
  }

  /** A word of a queue, 0 for a queue that does not exist. */
  queueWord(queue: number, word: number): number {
    return queue < this.queueCount ? this.#get(QUEUES + queue * QUEUE_WORDS + word) : 0;
  }

  /** The driver sets a word of a queue; ignored while the queue is enabled (§4.1.4.3.2). */
  setQueueWord(queue: number, word: number, value: number): void {
    if (queue >= this.queueCount) return;
    const enabled = this.queueWord(queue, QUEUE_ENABLE) === 1;
    this.#events.observer?.({ what: 'queue written', queue, status: this.status, enabled });
    if (!enabled) this.#setWord(queue, word, value);
  }

  #setWord(queue: number, word: number, value: number): void {
    this.#words[QUEUES + queue * QUEUE_WORDS + word] = value;
  }

  /** The driver maps a queue to a vector, at any time (§4.1.5.1.2). */
  setQueueVector(queue: number, vector: number): void {
    if (queue >= this.queueCount || this.queueWord(queue, QUEUE_VECTOR) === vector) return;
    this.#words[QUEUES + queue * QUEUE_WORDS + QUEUE_VECTOR] = vector;
    if (this.queueWord(queue, QUEUE_ENABLE) === 1) this.interruptsChanged();
  }

  /** Notifies the owner, if it serves queues, that they now interrupt elsewhere. */
  interruptsChanged(): void {
    if (this.isActive) this.changes.add(CHANGE_INTERRUPTS);
  }

  /** The driver sets a queue's size: ignored if unsupported. */
  writeQueueSize(queue: number, size: number): void {
    if (queue >= this.queueCount) return;
    const packed = hasFeature(this.driverFeatures, VIRTIO_F_RING_PACKED);
    const fits = size > 0 && size <= (this.shape.queueSizes[queue] ?? 0);
    if (!fits || (!packed && (size & (size - 1)) !== 0)) {
      this.#events.observer?.({ what: 'queue size refused', queue, size });
      return;
    }
    this.setQueueWord(queue, QUEUE_SIZE, size);
  }

  /** The driver enables a queue; writing 0 is forbidden and has no effect (§4.1.4.3.2). */
  enableQueue(queue: number): void {
    if (queue >= this.queueCount) return;
    const size = this.queueWord(queue, QUEUE_SIZE);
    const area = this.#address(queue, QUEUE_DESC);
    const { status } = this;
    this.#events.observer?.({ what: 'queue enabled', queue, status, size, area });
    if ((status & FEATURES_OK) === 0) return;
    if (this.isResetting || this.queueWord(queue, QUEUE_ENABLE) === 1) return;
    this.#setWord(queue, QUEUE_ENABLE, 1);
    if (this.isActive) this.changes.add(CHANGE_QUEUES);
  }

  /** The driver resets a queue (§2.6.1); the register exists if the feature was negotiated (§4.1.4.3). */
  resetQueue(queue: number): void {
    if (queue >= this.queueCount) return;
    const negotiated = hasFeature(this.driverFeatures, VIRTIO_F_RING_RESET);
    this.#events.observer?.({ what: 'queue reset', queue, negotiated });
    if (this.isResetting || !negotiated) return;
    if (this.queueWord(queue, QUEUE_ENABLE) === 0) return;
    if (this.queueWord(queue, QUEUE_RESET) === 1) return;
    if (!this.isActive) {
      this.completeQueueReset(queue);
      return;
    }
    this.#words[QUEUES + queue * QUEUE_WORDS + QUEUE_RESET] = 1;
    this.changes.add(CHANGE_QUEUES);
  }

  /** The driver stops using a queue, which keeps its size and addresses (§4.2.2.2). */
  stopQueue(queue: number): void {
    if (this.isResetting || this.queueWord(queue, QUEUE_ENABLE) === 0) return;
    if (this.isQueueResetting(queue)) return;
    this.#events.observer?.({ what: 'queue reset', queue, negotiated: true });
    this.#words[QUEUES + queue * QUEUE_WORDS + QUEUE_STOPPING] = 1;
    if (this.isActive) this.changes.add(CHANGE_QUEUES);
    else this.completeQueueReset(queue);
  }

  /** As `awaitReset`, for a queue that is being stopped or reset. */
  awaitQueueStop(queue: number, lock: RegisterLockWait): void {
    if (queue >= this.queueCount) return;
    const at = QUEUES + queue * QUEUE_WORDS;
    lock.waitWhile(this.#words, at + QUEUE_STOPPING, 1);
    lock.waitWhile(this.#words, at + QUEUE_RESET, 1);
  }

  /** An enabled queue as the driver set it up, or undefined. */
  queueConfig(queue: number, kickFd: number, callFd: number): QueueConfig | undefined {
    if (this.queueWord(queue, QUEUE_ENABLE) === 0) return undefined;
    return {
      index: queue,
      size: this.queueWord(queue, QUEUE_SIZE),
      descriptorArea: this.#address(queue, QUEUE_DESC),
      driverArea: this.#address(queue, QUEUE_DRIVER),
      deviceArea: this.#address(queue, QUEUE_DEVICE),
      kickFd,
      callFd,
    };
  }

  /** The driver writes configuration space. */
  writeConfig(offset: number, size: number, value: number): void {
    const writable = this.config.write(offset, size, value);
    const { status } = this;
    this.#events.observer?.({ what: 'config written', offset, size, value, writable, status });
    if (writable) this.changes.add(CHANGE_CONFIG);
  }

  /** The driver wrote a read-only register: ignored. */
  readOnlyWritten(name: string): void {
    this.#events.observer?.({ what: 'read-only written', name });
  }

  /** The current interrupt status (§4.1.4.5). */
  get isr(): number {
    return this.#get(ISR);
  }
  set isr(value: number) {
    this.#words[ISR] = value;
  }

  #requestReset(): void {
    if (this.#get(RESETTING) === 1) return;
    if (this.#get(ACTIVE) === 0) {
      this.completeReset();
      return;
    }
    this.#words[RESETTING] = 1;
    this.changes.add(CHANGE_RESET);
  }

  #featuresValid(): boolean {
    const accepted = this.driverFeatures;
    if ((accepted & ~this.shape.features) !== 0n) return false;
    if (!hasFeature(accepted, VIRTIO_F_VERSION_1)) return false;
    const { requiredFeatures = 0n } = this.shape;
    if ((accepted & requiredFeatures) !== requiredFeatures) return false;
    return this.shape.featureDependencies.every(
      ([bit, needs]) => !hasFeature(accepted, bit) || hasFeature(accepted, needs),
    );
  }

  #address(queue: number, word: number): number {
    const low = this.queueWord(queue, word) >>> 0;
    return (this.queueWord(queue, word + 1) >>> 0) * 2 ** 32 + low;
  }

  #get(word: number): number {
    return this.#words[word] ?? 0;
  }
}

/**
 * What a driver caused and the device's owner has not handled yet, as CHANGE_ bits; a reset of the
 * device leaves them. However often a driver repeats something, the owner has at most one
 * unanswered message.
 */
export class PendingChanges {
  readonly #word: Int32Array;
  readonly #changed: () => void;

  /** @param changed sends the owner a message */
  constructor(state: SharedState, changed: () => void) {
    this.#word = state.words(1);
    this.#changed = changed;
  }

  add(change: number): void {
    const before = this.#word[0] as number;
    this.#word[0] = before | change;
    if (before === 0) this.#changed();
  }

  /** The owner is about to look. */
  take(): number {
    const changes = this.#word[0] as number;
    this.#word[0] = 0;
    return changes;
  }
}
