/** The console, as a type of device. */
import { options } from '../../../options/option-schema.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../device-type.ts';
import { ConsoleDevice } from './console.ts';

export const consoleType: DeviceType = {
  name: 'console',
  summary: 'the console',
  key: 'console',
  number: 'always',
  firstKey: 'transport',
  backends: [
    {
      name: 'stream',
      options: options<CarriedOptions>({}, CARRIED),
      served: {},
      create: (_, { name }) => new ConsoleDevice(name, []),
    },
  ],
};
