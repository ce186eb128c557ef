/** Devices that the caller provides, written in a file or in the calling program. */
import { choice, flag, options, strings, text, value } from '../../options/option-schema.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import { DefinedDevice } from '../../virtio/device-sdk/defined-device.ts';
import type { DeviceFactory } from '../../virtio/device-sdk/definition.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../virtio/device-type.ts';
import { DeviceCode, type ModuleDeviceOptions } from './device-code.ts';

/** A device of your own, in a file. */
interface FileOptions extends ModuleDeviceOptions, CarriedOptions {}

/** A device of your own that this program defines. */
interface DefinitionOptions extends CarriedOptions {
  /** What `defineDevice` returned; its functions run on the main thread. */
  readonly definition: DeviceFactory;
  readonly options?: Readonly<Record<string, string>>;
}

/** A device object of your own. */
interface ObjectOptions extends CarriedOptions {
  readonly device: VirtioDevice;
}

/** A device of your own; see docs/devices.md. */
export type OwnDeviceOptions = FileOptions | DefinitionOptions | ObjectOptions;

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
          ...CARRIED,
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
        { options: strings({ key: null }), ...CARRIED },
      ),
      create: ({ definition, options = {} }: DefinitionOptions, { name }) =>
        new DefinedDevice(name, definition(options)),
    },
    {
      name: 'device',
      selector: { option: 'device' },
      options: options<ObjectOptions>({ device: value(isObject, 'a VirtioDevice') }, CARRIED),
      create: ({ device }: ObjectOptions) => device,
    },
  ],
};
