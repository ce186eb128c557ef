/** A memory device (virtio 1.3 §5.15): RAM that the guest plugs and unplugs in blocks, as it is asked to. */
import * as abi from '../../../abi/virtio-mem.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { InternalError } from '../../../host/errors.ts';
import { BLOCK_SIZE } from '../../../memory/plugged-blocks.ts';
import { number, options } from '../../../options/option-schema.ts';
import type { DeviceHost, QueueHandler, VirtioDevice } from '../../device.ts';
import { type CarriedOptions, type DeviceType, TRANSPORTED } from '../../device-type.ts';
import { type GrowingRam, MemHandler, type MemLimits } from './mem-handler.ts';

/** PCI: unclassified, what QEMU shows. */
const PCI_CLASS = 0x00ff00;
const QUEUE_SIZE = 128;
const { virtio_mem_config: config } = abi;

/** Options of the memory device. */
export interface MemoryDeviceOptions extends Omit<CarriedOptions, 'iommu'> {
  /** Bytes that the guest's RAM can grow to, `memory` included: that and whole 2 MiB. */
  readonly max: number;
}

/** A memory device of one machine. */
export class MemDevice implements VirtioDevice, MemLimits {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_MEM;
  readonly pciClass: number = PCI_CLASS;
  readonly features: bigint = featureSet(abi.VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
  readonly queues = [{ name: 'guest-request', maxSize: QUEUE_SIZE }];
  readonly config = new Uint8Array(config.size);
  readonly thread = { kind: 'main' } as const;
  readonly backend = { name: 'guest RAM', calls: 'KVM_SET_USER_MEMORY_REGION, madvise' };
  #requested = 0;
  #ram: GrowingRam | undefined;
  #host: DeviceHost | undefined;

  constructor(name: string) {
    this.name = name;
    new DataView(this.config.buffer).setBigUint64(
      config.block_size.offset,
      BigInt(BLOCK_SIZE),
      true,
    );
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  /** Once, before the guest runs. */
  setMemory(ram: GrowingRam): void {
    this.#ram = ram;
    const size = BigInt(ram.count * BLOCK_SIZE);
    const view = new DataView(this.config.buffer);
    view.setBigUint64(config.addr.offset, BigInt(ram.gpa), true);
    view.setBigUint64(config.region_size.offset, size, true);
    view.setBigUint64(config.usable_region_size.offset, size, true);
  }

  createHandler(): QueueHandler {
    return new MemHandler(this.#known(), this);
  }

  /** Blocks that the guest is to have. */
  get requested(): number {
    return this.#requested;
  }

  set requested(blocks: number) {
    this.#requested = blocks;
    this.#host?.updateConfig((view) => {
      view.setBigUint64(config.requested_size.offset, BigInt(blocks * BLOCK_SIZE), true);
    });
  }

  /** Blocks that it has. */
  get plugged(): number {
    const ram = this.#known();
    return ram.pluggedOf(0, ram.count);
  }

  /** §5.15.6.2: a reset of the system unplugs all blocks, one of the device none. */
  resetSystem(): void {
    const ram = this.#known();
    ram.unplug(0, ram.count);
    this.changed();
  }

  /** §5.15.4.2: this does not concern the driver, which asked for it. */
  changed(): void {
    const size = BigInt(this.plugged * BLOCK_SIZE);
    const quiet = true;
    this.#host?.updateConfig((view) => {
      view.setBigUint64(config.plugged_size.offset, size, true);
    }, quiet);
  }

  close(): void {}

  #known(): GrowingRam {
    if (this.#ram === undefined) throw new InternalError(`${this.name} has no memory`);
    return this.#ram;
  }
}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** A memory device, by which the guest's RAM grows and shrinks while it runs; see docs/memory.md. Default none. */
    readonly memoryDevice?: MemoryDeviceOptions;
  }
}

/** As the registry lists it. */
export const memType: DeviceType = {
  name: 'mem',
  summary: 'RAM that grows and shrinks (docs/memory.md)',
  key: 'memoryDevice',
  number: 'on-request',
  cli: { option: '--memory-device', value: 'max,...' },
  firstKey: 'max',
  backends: [
    {
      name: 'virtio-mem',
      options: options<MemoryDeviceOptions>(
        {
          max: number((bytes) => Number.isSafeInteger(bytes) && bytes > 0, {
            code: 'E_MEMORY',
            expected: 'a size like 4G, in bytes',
            value: 'SIZE',
            bytes: true,
          }),
        },
        TRANSPORTED,
      ),
      create: (_, { name }) => new MemDevice(name),
    },
  ],
};
