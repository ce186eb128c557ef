/**
 * A PMEM device (virtio 1.3 §5.19): a file of the host in the guest's address space, which the guest reads and writes
 * without its own page cache (DAX), and a queue that makes what it wrote durable.
 */
import * as abi from '../../../abi/virtio-pmem.ts';
import { RawFile } from '../../../backend/raw-file.ts';
import { InternalError, UsageError } from '../../../host/errors.ts';
import type { FileRegion, MappedFile } from '../../../memory/file-regions.ts';
import { BLOCK_SIZE } from '../../../memory/plugged-blocks.ts';
import { flag, options, text } from '../../../options/option-schema.ts';
import type { HandlerThread, QueueHandler, VirtioDevice } from '../../device.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../device-type.ts';
import { PmemHandler, type PmemHandlerOptions } from './pmem-handler.ts';

/** PCI: unclassified, what QEMU shows. */
const PCI_CLASS = 0x00ff00;
const DEFAULT_QUEUE_SIZE = 128;

/** Options of a PMEM device. */
export interface PmemOptions extends CarriedOptions {
  /** A file, of whole 2 MiB. */
  readonly path: string;
  /** Nothing that the guest does changes it. Default false. */
  readonly readOnly?: boolean;
}

/** Makes the data half. @param options as in its `HandlerThread` */
export function createHandler(options: unknown): QueueHandler {
  return new PmemHandler(options as PmemHandlerOptions);
}

/** A file as memory. */
export class PmemDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_PMEM;
  readonly pciClass: number = PCI_CLASS;
  readonly features = 0n;
  readonly queues: VirtioDevice['queues'];
  readonly config = new Uint8Array(abi.virtio_pmem_config.size);
  readonly thread: HandlerThread;
  readonly backend: { readonly name: string; readonly calls: string };
  /** To be mapped. */
  readonly file: MappedFile;
  readonly #file: RawFile;

  /** @throws UsageError in one line when the file cannot be used */
  constructor(name: string, { path, readOnly = false }: PmemOptions, queueSize?: number) {
    this.name = name;
    this.#file = new RawFile({ path, readOnly, direct: false });
    const { fd } = this.#file;
    const { fileSize: size, blockDevice } = this.#file.geometry;
    if (blockDevice || size % BLOCK_SIZE !== 0) {
      this.#file.close();
      throw new UsageError(
        'E_PMEM',
        `${name}: ${path} ${blockDevice ? 'is not a file' : `has ${size} bytes, not whole 2 MiB`}`,
        blockDevice ? 'attach it as a disk' : `pad it with: truncate -s %2M ${path}`,
      );
    }
    this.file = { fd, size, readOnly, path };
    this.backend = { name: path, calls: 'fdatasync' };
    this.queues = [{ name: 'req_vq', maxSize: queueSize ?? DEFAULT_QUEUE_SIZE }];
    const module = new URL('./pmem.js', import.meta.url).href;
    const handler: PmemHandlerOptions = { fd, readOnly };
    this.thread = { kind: 'worker', module, options: handler };
    const view = new DataView(this.config.buffer);
    view.setBigUint64(abi.virtio_pmem_config.length.offset, BigInt(size), true);
  }

  /** Once, before the guest runs: where the file is in its address space. */
  place(region: FileRegion | undefined): void {
    if (region === undefined) throw new InternalError(`${this.name} has no place`);
    const view = new DataView(this.config.buffer);
    view.setBigUint64(abi.virtio_pmem_config.start.offset, BigInt(region.gpa), true);
  }

  close(): void {
    this.#file.close();
  }
}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** Files as memory of the guest's, in the order of its names for them: `pmem0`, `pmem1`; see docs/memory.md. */
    readonly pmems?: readonly PmemOptions[];
  }
}

/** As the registry lists it. */
export const pmemType: DeviceType = {
  name: 'pmem',
  summary: 'a file as persistent memory (docs/memory.md)',
  key: 'pmems',
  number: 'any',
  cli: { option: '--pmem', value: 'file,...' },
  firstKey: 'path',
  backends: [
    {
      name: 'file',
      options: options<PmemOptions>(
        {
          path: text({
            value: 'FILE',
            path: 'file',
            shared: ({ readOnly }: Partial<PmemOptions>) => readOnly !== true,
          }),
        },
        { readOnly: flag({ key: 'ro' }), ...CARRIED },
      ),
      create: (own: PmemOptions, { name, queueSize }) => new PmemDevice(name, own, queueSize),
    },
  ],
};
