/** Shared folders, as a type of device. */
import { choice, flag, integer, options, text } from '../../../options/option-schema.ts';
import { type DeviceType, POLLED, type PolledOptions } from '../../device-type.ts';
import { type VhostUserOptions, vhostUserBackend } from '../vhost-user-type.ts';
import { createFsDevice, type FsOptions, fsKind } from './fs.ts';

type FolderOptions = Omit<FsOptions, 'name' | 'queueSize' | 'maxFiles' | 'devices'>;

/** A folder of the host that the guest mounts: `mount -t virtiofs TAG /mnt`. */
export interface FileSystemOptions extends FolderOptions, PolledOptions {}

/** A file system that another process serves. */
export interface VhostUserFsOptions extends VhostUserOptions {
  /** The tag that the guest mounts it by, at most 36 bytes. */
  readonly tag: string;
}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** Folders shared with the guest; see docs/fs.md. */
    readonly fileSystems?: readonly (FileSystemOptions | VhostUserFsOptions)[];
  }
}

/** What a tag is, for a field of 36 bytes (virtio 1.3 §5.11.4). */
const TAG = { value: 'NAME', expected: 'a tag of 1 to 36 bytes' };
const isTag = (tag: string): boolean => Buffer.byteLength(tag) <= 36;

export const fsType: DeviceType = {
  name: 'fs',
  summary: 'a folder of the host that the guest mounts (-t virtiofs T)',
  key: 'fileSystems',
  number: 'any',
  cli: { option: '--fs', value: 'tag=t,...' },
  firstKey: 'tag',
  servedFirstKey: 'source',
  backends: [
    {
      name: 'folder',
      options: options<FileSystemOptions>(
        {
          tag: text({ ...TAG, code: 'E_FS_TAG' }, isTag),
          source: text({
            value: 'FOLDER',
            path: 'folder',
            shared: ({ readOnly }: Partial<FileSystemOptions>) => readOnly !== true,
          }),
        },
        {
          readOnly: flag({ key: 'readonly' }),
          submounts: flag(),
          xattr: choice(['mapped', 'passthrough'], { code: 'E_FS_XATTR' }),
          mknod: flag(),
          queues: integer(1, 16, { code: 'E_FS_QUEUES' }),
          ...POLLED,
        },
      ),
      // Other VMMs set the tag themselves.
      served: { tag: 'nodevmm', poll: 'adaptive' },
      create: (folder: FolderOptions, { index: _, count, ...context }) =>
        createFsDevice({ ...folder, ...context, devices: count }),
    },
    vhostUserBackend<VhostUserFsOptions>(
      { tag: text(TAG, isTag) },
      {},
      (_, { tag, queues = 1 }, { queueSize }) => fsKind(tag, queues, queueSize),
    ),
  ],
};
