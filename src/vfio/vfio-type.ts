/** Passed-through PCI functions, as a type of device. */
import { choice, flag, options, text } from '../options/option-schema.ts';
import { type DeviceType, IOMMU } from '../virtio/device-type.ts';
import { VfioDevice, type VfioOptions } from './device.ts';
import { functionAddress } from './host-function.ts';

declare module '../virtio/device-type.ts' {
  interface MachineDeviceOptions {
    /** PCI functions of the host. */
    readonly vfio?: readonly VfioOptions[];
  }
}

export const vfioType: DeviceType<VfioDevice> = {
  name: 'vfio',
  summary: 'a PCI function of the host (docs/vfio.md)',
  key: 'vfio',
  number: 'any',
  cli: { option: '--vfio', value: 'address,...' },
  firstKey: 'address',
  backends: [
    {
      name: 'host',
      options: options<VfioOptions>(
        {
          address: text(
            {
              value: 'ADDRESS',
              expected: 'a PCI address like 0000:01:00.0',
              code: 'E_VFIO_DEVICE',
            },
            (address) => functionAddress(address) !== undefined,
          ),
        },
        { bind: flag(), iommufd: choice(['on', 'off', 'auto']), iommu: IOMMU },
      ),
      create: (own: object, { name }) => new VfioDevice(name, own as VfioOptions),
    },
  ],
};
