/** linux/iommufd.h, and how linux/vfio.h binds a device to it: I/O address spaces without containers and groups. */
import { _IO, struct } from './struct.ts';
import { VFIO_BASE, VFIO_TYPE } from './vfio.ts';

/** `';'` */
const IOMMUFD_TYPE = 0x3b;

export const IOMMU_IOAS_ALLOC = _IO(IOMMUFD_TYPE, 0x81);
export const IOMMU_IOAS_MAP = _IO(IOMMUFD_TYPE, 0x85);
export const IOMMU_IOAS_UNMAP = _IO(IOMMUFD_TYPE, 0x86);

export const iommu_ioas_alloc = struct({ size_: 4, flags: 4, out_ioas_id: 4 });
export const iommu_ioas_map = struct({
  size_: 4,
  flags: 4,
  ioas_id: 4,
  __reserved: 4,
  user_va: 8,
  length: 8,
  iova: 8,
});
export const IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0;
export const IOMMU_IOAS_MAP_WRITEABLE = 1 << 1;
export const IOMMU_IOAS_MAP_READABLE = 1 << 2;
export const iommu_ioas_unmap = struct({ size_: 4, ioas_id: 4, iova: 8, length: 8 });

export const VFIO_DEVICE_BIND_IOMMUFD = _IO(VFIO_TYPE, VFIO_BASE + 18);
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = _IO(VFIO_TYPE, VFIO_BASE + 19);

export const vfio_device_bind_iommufd = struct({ argsz: 4, flags: 4, iommufd: 4, out_devid: 4 });
export const vfio_device_attach_iommufd_pt = struct({ argsz: 4, flags: 4, pt_id: 4 });

/** Of `vfio_pci_hot_reset_info`: what follows are devices, and all of them are this process's. */
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;
