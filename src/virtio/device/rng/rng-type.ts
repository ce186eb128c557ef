/** The entropy device, as a type of device. */
import { options } from '../../../options/option-schema.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../device-type.ts';
import { createRngDevice } from '../rng.ts';

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
