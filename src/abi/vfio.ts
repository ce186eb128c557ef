/** linux/vfio.h: a device of the host in the hands of a process, by group and container. */
import { _IO, struct } from './struct.ts';

export const VFIO_TYPE = 0x3b;
export const VFIO_BASE = 100;

export const VFIO_API_VERSION = 0;
/** An IOMMU of type 1, whose maps must be undone as they were made. */
export const VFIO_TYPE1v2_IOMMU = 3;

export const VFIO_GET_API_VERSION = _IO(VFIO_TYPE, VFIO_BASE);
export const VFIO_CHECK_EXTENSION = _IO(VFIO_TYPE, VFIO_BASE + 1);
export const VFIO_SET_IOMMU = _IO(VFIO_TYPE, VFIO_BASE + 2);
export const VFIO_GROUP_GET_STATUS = _IO(VFIO_TYPE, VFIO_BASE + 3);
export const VFIO_GROUP_SET_CONTAINER = _IO(VFIO_TYPE, VFIO_BASE + 4);
export const VFIO_GROUP_GET_DEVICE_FD = _IO(VFIO_TYPE, VFIO_BASE + 6);
export const VFIO_DEVICE_GET_INFO = _IO(VFIO_TYPE, VFIO_BASE + 7);
export const VFIO_DEVICE_GET_REGION_INFO = _IO(VFIO_TYPE, VFIO_BASE + 8);
export const VFIO_DEVICE_GET_IRQ_INFO = _IO(VFIO_TYPE, VFIO_BASE + 9);
export const VFIO_DEVICE_SET_IRQS = _IO(VFIO_TYPE, VFIO_BASE + 10);
export const VFIO_DEVICE_RESET = _IO(VFIO_TYPE, VFIO_BASE + 11);
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = _IO(VFIO_TYPE, VFIO_BASE + 12);
export const VFIO_DEVICE_PCI_HOT_RESET = _IO(VFIO_TYPE, VFIO_BASE + 13);
export const VFIO_IOMMU_MAP_DMA = _IO(VFIO_TYPE, VFIO_BASE + 13);
export const VFIO_IOMMU_UNMAP_DMA = _IO(VFIO_TYPE, VFIO_BASE + 14);

export const vfio_group_status = struct({ argsz: 4, flags: 4 });
export const VFIO_GROUP_FLAGS_VIABLE = 1 << 0;

/** As it was at first: Linux 6.5 added a word of padding. */
export const vfio_device_info = struct({
  argsz: 4,
  flags: 4,
  num_regions: 4,
  num_irqs: 4,
  cap_offset: 4,
});
export const VFIO_DEVICE_FLAGS_RESET = 1 << 0;
export const VFIO_DEVICE_FLAGS_PCI = 1 << 1;

export const vfio_region_info = struct({
  argsz: 4,
  flags: 4,
  index: 4,
  cap_offset: 4,
  size_: 8,
  offset: 8,
});
export const VFIO_REGION_INFO_FLAG_READ = 1 << 0;
export const VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
export const VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
export const VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;
export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

export const vfio_info_cap_header = struct({ id: 2, version: 2, next: 4 });
/** `header` first; the areas follow. */
export const vfio_region_info_cap_sparse_mmap = struct({
  header: [4, 2],
  nr_areas: 4,
  reserved: 4,
});
export const vfio_region_sparse_mmap_area = struct({ offset: 8, size_: 8 });

/** Regions of a PCI device; BAR n is region n. */
export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_BAR5_REGION_INDEX = 5;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;

export const vfio_irq_info = struct({ argsz: 4, flags: 4, index: 4, count: 4 });
export const VFIO_IRQ_INFO_EVENTFD = 1 << 0;

/** Interrupts of a PCI device. */
export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_ERR_IRQ_INDEX = 3;
export const VFIO_PCI_REQ_IRQ_INDEX = 4;

/** The data follow. */
export const vfio_irq_set = struct({ argsz: 4, flags: 4, index: 4, start: 4, count: 4 });
export const VFIO_IRQ_SET_DATA_NONE = 1 << 0;
export const VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
export const VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;

export const vfio_iommu_type1_dma_map = struct({ argsz: 4, flags: 4, vaddr: 8, iova: 8, size_: 8 });
export const VFIO_DMA_MAP_FLAG_READ = 1 << 0;
export const VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
export const vfio_iommu_type1_dma_unmap = struct({ argsz: 4, flags: 4, iova: 8, size_: 8 });

/** The group, or with iommufd the device, is the first word. */
export const vfio_pci_dependent_device = struct({ group_id: 4, segment: 2, bus: 1, devfn: 1 });
/** The devices follow. */
export const vfio_pci_hot_reset_info = struct({ argsz: 4, flags: 4, count: 4 });
/** The groups' files follow. */
export const vfio_pci_hot_reset = struct({ argsz: 4, flags: 4, count: 4 });
