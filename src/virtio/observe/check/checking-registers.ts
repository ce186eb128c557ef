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
import type { RegisterEvent, RegisterObserver } from '../../register-observer.ts';
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

type StatusWrite = Extract<RegisterEvent, { what: 'status' }>;

const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;

/** Checks one device's registers. */
export class RegisterChecker {
  readonly #device: CheckedDevice;
  readonly #breach: (breach: Breach) => void;
  readonly #reported = new Set<string>();

  constructor(device: CheckedDevice, breach: (breach: Breach) => void) {
    this.#device = device;
    this.#breach = breach;
  }

  readonly observe: RegisterObserver = (event) => {
    const early = 'status' in event && (event.status & FEATURES_OK) === 0;
    switch (event.what) {
      case 'status':
        if (event.value !== 0) this.#statusWritten(event);
        return;
      case 'features written':
        if (early) return;
        this.#report(rules.lateFeatures, `word ${event.select}: ${hex(event.bits)}`);
        return;
      case 'queue written':
        if (event.enabled) this.#report(rules.enabledQueue, '', event.queue);
        else if (early) this.#report(rules.earlyQueue, statusText(event.status), event.queue);
        return;
      case 'queue size refused':
        this.#report(rules.queueSize, `size ${event.size}`, event.queue);
        return;
      case 'queue enabled':
        if (early) this.#report(rules.earlyQueue, statusText(event.status), event.queue);
        return;
      case 'queue reset':
        if (!event.negotiated) this.#report(rules.noRingReset, '', event.queue);
        return;
      case 'config written': {
        const { offset, size, value, writable } = event;
        const note = `offset ${offset}, ${size} bytes, value ${hex(value)}`;
        if (!writable) this.#report(rules.configReadOnly, note);
        else if (early) this.#report(rules.earlyConfig, note);
        return;
      }
      case 'read-only written':
        this.#report(rules.readOnly, event.name);
        return;
      case 'reset completed':
        // Earlier signals are stale: nothing is served now.
        for (const kick of this.#device.kicks) drainEventfd(kick);
    }
  };

  #statusWritten({ before, value, accepted }: StatusWrite): void {
    const note = `${statusText(before)}, then ${statusText(value)} was written`;
    if ((before & DRIVER_BITS & ~value) !== 0) this.#report(rules.statusCleared, note);
    if ((value & ~KNOWN_BITS) !== 0) this.#report(rules.statusUnknown, note);
    const set = value & ~before;
    const known = before | value;
    if ((set & DRIVER) !== 0 && (known & ACKNOWLEDGE) === 0) this.#report(rules.statusOrder, note);
    if ((set & FEATURES_OK) !== 0) {
      if ((known & DRIVER) === 0) this.#report(rules.statusOrder, note);
      this.#checkFeatures(accepted);
    }
    if ((set & DRIVER_OK) !== 0) {
      if ((before & FEATURES_OK) === 0) this.#report(rules.earlyDriverOk, note);
      this.#device.kicks.forEach((kick, queue) => {
        if (isReadable(kick)) this.#report(rules.earlyKick, note, queue);
      });
    }
  }

  #checkFeatures(accepted: bigint): void {
    const { features, featureDependencies } = this.#device;
    const foreign = accepted & ~features;
    if (foreign !== 0n) {
      this.#report(rules.featureNotOffered, `feature bits 0x${foreign.toString(16)}`);
    }
    if (!hasFeature(accepted, VIRTIO_F_VERSION_1)) this.#report(rules.noVersion1);
    for (const [bit, needs] of featureDependencies) {
      if (hasFeature(accepted, bit) && !hasFeature(accepted, needs)) {
        this.#report(rules.featureNeeds, `feature ${bit} needs ${needs}`);
      }
    }
  }

  #report({ side, rule, text }: Rule, note = '', queue?: number): void {
    const key = `${queue} ${rule}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    const dump = note === '' ? [] : [note];
    this.#breach({ side, rule, text, dump, ...(queue === undefined ? {} : { queue }) });
  }
}
