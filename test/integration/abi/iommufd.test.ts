/** iommufd's structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/iommufd.ts';
import { testHeader } from './c-program.ts';

const structs = {
  iommu_ioas_alloc: abi.iommu_ioas_alloc,
  iommu_ioas_map: abi.iommu_ioas_map,
  iommu_ioas_unmap: abi.iommu_ioas_unmap,
  vfio_device_bind_iommufd: abi.vfio_device_bind_iommufd,
  vfio_device_attach_iommufd_pt: abi.vfio_device_attach_iommufd_pt,
};
/** `size` is a layout's own. */
const path = (field: string): string => (field === 'size_' ? 'size' : field);

// Linux 6.6 and later.
testHeader(t, ['linux/ioctl.h', 'linux/vfio.h', 'linux/iommufd.h'], structs, abi, path);
