/**
 * The entropy device (virtio 1.3 §5.4): fills the driver's buffers from the host's getrandom(2). It
 * is the smallest complete device, and shows the contract of device.ts: what the driver sees, and a
 * handler that serves the queue from DRIVER_OK to the reset.
 */
import { randomFillSync } from 'node:crypto';
import { options } from '../../../options/option-schema.ts';
import type { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler, VirtioDevice } from '../../device.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../device-type.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';

const VIRTIO_ID_ENTROPY = 4;
/** PCI: unclassified, what QEMU shows. */
const PCI_CLASS_OTHERS = 0x00ff00;
const DEFAULT_QUEUE_SIZE = 64;

/** The most bytes that one buffer gets; the driver asks again (§5.4.6). */
const MAX_BYTES = 64 * 1024;
/** Buffers filled before the rest of the thread gets its turn. */
const BUDGET = 16;

/** An entropy device. */
export interface RngOptions {
  /** Short name for messages, e.g. `rng0`. */
  readonly name: string;
  /** Descriptors of the queue, a power of two. Default 64. */
  readonly queueSize?: number;
}

/** Makes an entropy device. */
export function createRngDevice(options: RngOptions): VirtioDevice {
  return {
    name: options.name,
    deviceId: VIRTIO_ID_ENTROPY,
    pciClass: PCI_CLASS_OTHERS,
    features: 0n,
    queues: [{ name: 'requestq', maxSize: options.queueSize ?? DEFAULT_QUEUE_SIZE }],
    config: new Uint8Array(0),
    thread: { kind: 'main' },
    backend: { name: 'random numbers', calls: 'getrandom' },
    createHandler: () => new RngHandler(),
    close: () => {},
  };
}

class RngHandler implements QueueHandler {
  /** Random bytes from `#next` on, zeros before: a system call for each small buffer costs 4 us. */
  readonly #random = new Uint8Array(MAX_BYTES);
  #next = MAX_BYTES;
  #queue: ActiveQueue | undefined;

  start({ queues }: HandlerContext): void {
    this.#queue = queues[0];
  }

  kick(): void {
    this.#queue?.serve(BUDGET, (chain) => this.#fill(chain));
  }

  stop(): void {
    this.#queue = undefined;
  }

  /** §5.4.6.2: at least one byte, at most the whole buffer. A buffer without room gets none. */
  #fill(chain: DescriptorChain): number {
    const length = Math.min(chain.writableLength, MAX_BYTES);
    if (this.#next + length > MAX_BYTES) {
      randomFillSync(this.#random);
      this.#next = 0;
    }
    const bytes = this.#random.subarray(this.#next, this.#next + length);
    this.#next += length;
    const written = chain.write(0, bytes);
    // The guest's random bytes must not remain readable on the host.
    bytes.fill(0);
    return written;
  }
}

/** Options of the entropy device. */
export type EntropyOptions = CarriedOptions;

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** A virtio entropy device. Default true. */
    readonly rng?: boolean | EntropyOptions;
  }
}

/** As the registry lists it. */
export const rngType: DeviceType = {
  name: 'rng',
  summary: 'the entropy device',
  key: 'rng',
  number: 'by-default',
  cli: { option: '--rng', value: 'keys' },
  firstKey: 'transport',
  backends: [
    {
      name: 'getrandom',
      options: options<CarriedOptions>({}, CARRIED),
      served: {},
      create: (_, { name }) => createRngDevice({ name }),
    },
  ],
};
