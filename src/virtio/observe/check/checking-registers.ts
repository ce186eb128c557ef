/** Checks a driver's accesses to a device's registers. */

import { statusText } from '../../../abi/virtio-names.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  FAILED,
  FEATURES_OK,
} from '../../../abi/virtio-pci.ts';
import { hasFeature, VIRTIO_F_VERSION_1 } from '../../../abi/virtio-ring.ts';
import { drainEventfd, isReadable } from '../../../host/fd.ts';
import type { RegisterObserver } from '../../register-observer.ts';
import type { Breach } from '../observation.ts';
import { type Rule, rules } from './rules.ts';

/** The checked properties of a device. */
export interface CheckedDevice {
  /** Feature bits that are offered. */
  readonly features: bigint;
  /** Pairs: the first may only be accepted with the second. */
  readonly featureDependencies: readonly (readonly [number, number])[];
  /** eventfd of each queue's notifications. */
  readonly kicks: readonly number[];
}

const DRIVER_BITS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
const KNOWN_BITS = DRIVER_BITS | DEVICE_NEEDS_RESET;

/** One device's registers, checked. */
export class CheckingRegisters implements RegisterObserver {
  readonly #device: CheckedDevice;
  readonly #breach: (breach: Breach) => void;
  readonly #told = new Set<string>();

  constructor(device: CheckedDevice, breach: (breach: Breach) => void) {
    this.#device = device;
    this.#breach = breach;
  }

  statusWritten(before: number, value: number, _after: number, accepted: bigint): void {
    if (value === 0) return;
    const note = `${statusText(before)}, then ${statusText(value)} was written`;
    if ((before & DRIVER_BITS & ~value) !== 0) this.#tell(rules.statusCleared, note);
    if ((value & ~KNOWN_BITS) !== 0) this.#tell(rules.statusUnknown, note);
    const set = value & ~before;
    const known = before | value;
    if ((set & DRIVER) !== 0 && (known & ACKNOWLEDGE) === 0) this.#tell(rules.statusOrder, note);
    if ((set & FEATURES_OK) !== 0) {
      if ((known & DRIVER) === 0) this.#tell(rules.statusOrder, note);
      this.#checkFeatures(accepted);
    }
    if ((set & DRIVER_OK) !== 0) {
      if ((before & FEATURES_OK) === 0) this.#tell(rules.earlyDriverOk, note);
      this.#device.kicks.forEach((kick, queue) => {
        if (isReadable(kick)) this.#tell(rules.earlyKick, note, queue);
      });
    }
  }

  featuresRead(): void {}

  featuresWritten(select: number, bits: number, status: number): void {
    if ((status & FEATURES_OK) === 0) return;
    this.#tell(rules.lateFeatures, `word ${select}: 0x${(bits >>> 0).toString(16)}`);
  }

  queueWritten(queue: number, status: number, enabled: boolean): void {
    if (enabled) this.#tell(rules.enabledQueue, '', queue);
    else if ((status & FEATURES_OK) === 0) this.#tell(rules.earlyQueue, statusText(status), queue);
  }

  queueSizeRefused(queue: number, size: number): void {
    this.#tell(rules.queueSize, `size ${size}`, queue);
  }

  queueEnabled(queue: number, status: number): void {
    if ((status & FEATURES_OK) === 0) this.#tell(rules.earlyQueue, statusText(status), queue);
  }

  queueReset(queue: number, negotiated: boolean): void {
    if (!negotiated) this.#tell(rules.noRingReset, '', queue);
  }

  configRead(): void {}

  configWritten(
    offset: number,
    size: number,
    value: number,
    writable: boolean,
    status: number,
  ): void {
    const note = `offset ${offset}, ${size} bytes, value 0x${(value >>> 0).toString(16)}`;
    if (!writable) this.#tell(rules.configReadOnly, note);
    else if ((status & FEATURES_OK) === 0) this.#tell(rules.earlyConfig, note);
  }

  readOnlyWritten(name: string): void {
    this.#tell(rules.readOnly, name);
  }

  /** Earlier signals are stale: nothing is served now. */
  resetCompleted(): void {
    for (const kick of this.#device.kicks) drainEventfd(kick);
  }

  needsReset(): void {}
  configChanged(): void {}

  #checkFeatures(accepted: bigint): void {
    const { features, featureDependencies } = this.#device;
    const foreign = accepted & ~features;
    if (foreign !== 0n) {
      this.#tell(rules.featureNotOffered, `feature bits 0x${foreign.toString(16)}`);
    }
    if (!hasFeature(accepted, VIRTIO_F_VERSION_1)) this.#tell(rules.noVersion1);
    for (const [bit, needs] of featureDependencies) {
      if (hasFeature(accepted, bit) && !hasFeature(accepted, needs)) {
        this.#tell(rules.featureNeeds, `feature ${bit} needs ${needs}`);
      }
    }
  }

  #tell({ side, rule, text }: Rule, note = '', queue?: number): void {
    const key = `${queue} ${rule}`;
    if (this.#told.has(key)) return;
    this.#told.add(key);
    const dump = note === '' ? [] : [note];
    this.#breach({ side, rule, text, dump, ...(queue === undefined ? {} : { queue }) });
  }
}
