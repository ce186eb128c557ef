/** Disks, as a type of device. */
import { VIRTIO_BLK_ID_BYTES } from '../../../abi/virtio-blk.ts';
import { choice, flag, integer, options, text } from '../../../options/option-schema.ts';
import { type DeviceType, POLLED, type PolledOptions } from '../../device-type.ts';
import { type VdpaOptions, vdpaBackend } from '../vdpa-type.ts';
import { type VhostUserOptions, vhostUserBackend } from '../vhost-user-type.ts';
import { type BlkOptions, createBlkDevice } from './blk.ts';
import { blkKind, vdpaBlk } from './frontend-blk.ts';

type FileOptions = Omit<BlkOptions, 'name' | 'queueSize'>;

/** A disk: a raw file or a block device. */
export interface DiskOptions extends FileOptions, PolledOptions {}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** Disks, in the order of the guest's names for them: `vda`, `vdb`. */
    readonly disks?: readonly (DiskOptions | VhostUserOptions | VdpaOptions)[];
  }
}

export const blkType: DeviceType = {
  name: 'blk',
  summary: 'a disk',
  key: 'disks',
  number: 'any',
  cli: { option: '--disk', value: 'file,...' },
  firstKey: 'path',
  backends: [
    {
      name: 'file',
      options: options<DiskOptions>(
        {
          path: text({
            value: 'FILE',
            path: 'file',
            shared: ({ readOnly }: Partial<DiskOptions>) => readOnly !== true,
          }),
        },
        {
          readOnly: flag({ key: 'ro' }),
          queues: integer(1, 16, { code: 'E_DISK_QUEUES' }),
          serial: text(
            { code: 'E_DISK_SERIAL', expected: 'at most 20 printable ASCII characters' },
            (serial) => serial.length <= VIRTIO_BLK_ID_BYTES && /^[\x20-\x7e]*$/.test(serial),
          ),
          direct: flag(),
          blockSize: choice([512, 1024, 2048, 4096]),
          engine: choice(['sync', 'io_uring']),
          ...POLLED,
        },
      ),
      served: { poll: 'adaptive' },
      create: (disk: FileOptions, { index, count: _, ...context }) =>
        createBlkDevice({ serial: `nodevmm-${index}`, ...disk, ...context }),
    },
    vhostUserBackend<VhostUserOptions>({}, {}, (backend, { queues }, { name, queueSize }) =>
      blkKind(name, backend, queues, queueSize),
    ),
    vdpaBackend([vdpaBlk]),
  ],
};
