/**
 * Devices that the caller provides: in a file, in the calling program, in another process or as a vDPA device of the host.
 */
import { VHOST_USER_MAX_CONFIG_SIZE } from '../../abi/vhost-user.ts';
import {
  choice,
  flag,
  integer,
  options,
  strings,
  text,
  value,
} from '../../options/option-schema.ts';
import { vdpaBlk } from '../../virtio/device/blk/frontend-blk.ts';
import { vdpaNet } from '../../virtio/device/net/frontend-net.ts';
import { type VdpaOptions, vdpaBackend } from '../../virtio/device/vdpa-type.ts';
import { type VhostUserOptions, vhostUserBackend } from '../../virtio/device/vhost-user-type.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import { DefinedDevice } from '../../virtio/device-sdk/defined-device.ts';
import type { DeviceFactory } from '../../virtio/device-sdk/definition.ts';
import {
  type DeviceBackend,
  type DeviceType,
  POLLED,
  type PolledOptions,
} from '../../virtio/device-type.ts';
import { otherKind } from '../../virtio/frontend-device.ts';
import { DeviceCode, type ModuleDeviceOptions } from './device-code.ts';

/** A device of your own, in a file. */
export interface FileOptions extends ModuleDeviceOptions, PolledOptions {}

/** A device of your own that this program defines. */
export interface DefinitionOptions extends PolledOptions {
  /** What `defineDevice` returned; its functions run on the main thread. */
  readonly definition: DeviceFactory;
  readonly options?: Readonly<Record<string, string>>;
}

/** A device object of your own. */
export interface ObjectOptions extends PolledOptions {
  readonly device: VirtioDevice;
}

/** A device of your own; see docs/devices.md. */
export type OwnDeviceOptions = FileOptions | DefinitionOptions | ObjectOptions;

/** Any device that another process serves. */
export interface VhostUserDeviceOptions extends VhostUserOptions {
  /** Device ID (virtio 1.3 §5). */
  readonly deviceId: number;
  /** Bytes of the configuration space, which the backend holds. Default 0. */
  readonly configSize?: number;
}

declare module '../../virtio/device-type.ts' {
  interface MachineDeviceOptions {
    /** Devices of your own, and any that another process or a vDPA device of the host serves. */
    readonly devices?: readonly (OwnDeviceOptions | VhostUserDeviceOptions | VdpaOptions)[];
  }
}

const vhostUser: DeviceBackend = {
  ...vhostUserBackend<VhostUserDeviceOptions>(
    {
      deviceId: integer(1, 63, {
        key: 'type',
        value: 'ID',
        expected: 'a device ID from 1 to 63',
      }),
    },
    { configSize: integer(0, VHOST_USER_MAX_CONFIG_SIZE) },
    (backend, { deviceId, queues = 1, configSize = 0 }, { queueSize }) =>
      otherKind(backend, { deviceId, queues, queueSize, configSize }),
    'socket',
  ),
  cliName: 'vhost-user',
  prefix: (wanted) => `virtio${(wanted as VhostUserDeviceOptions).deviceId}-`,
};

/** Any vDPA device: what it is, it says itself. */
const vdpa: DeviceBackend = {
  ...vdpaBackend([vdpaNet, vdpaBlk], true),
  prefix: () => 'vdpa',
};

const isFunction = (given: unknown): boolean => typeof given === 'function';
const isObject = (given: unknown): boolean => typeof given === 'object' && given !== null;

export const ownType: DeviceType<VirtioDevice | DeviceCode> = {
  name: 'own',
  summary: 'a virtio device of your own, in TypeScript or JavaScript',
  key: 'devices',
  number: 'any',
  cli: { option: '--device', value: 'file,...' },
  firstKey: 'file',
  backends: [
    {
      name: 'file',
      options: options<FileOptions>(
        {
          module: text({
            key: 'file',
            value: 'FILE',
            path: 'file',
            shared: ({ watch }: Partial<FileOptions>) => watch === true,
          }),
        },
        {
          thread: choice(['main', 'worker']),
          watch: flag({ key: null }),
          ...POLLED,
          options: strings({ rest: true }),
        },
      ),
      served: {},
      create: (from: ModuleDeviceOptions, { name }) => DeviceCode.open(name, from),
    },
    {
      name: 'definition',
      selector: { option: 'definition' },
      options: options<DefinitionOptions>(
        { definition: value(isFunction, 'what defineDevice returned') },
        { options: strings({ key: null }), ...POLLED },
      ),
      create: ({ definition, options = {} }: DefinitionOptions, { name }) =>
        new DefinedDevice(name, definition(options)),
    },
    {
      name: 'device',
      selector: { option: 'device' },
      options: options<ObjectOptions>({ device: value(isObject, 'a VirtioDevice') }, POLLED),
      create: ({ device }: ObjectOptions) => device,
    },
    vhostUser,
    vdpa,
  ],
};
