/** virtio 1.3 §5.13: IOMMU device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_IOMMU = 23;

export const VIRTIO_IOMMU_F_INPUT_RANGE = 0;
export const VIRTIO_IOMMU_F_DOMAIN_RANGE = 1;
export const VIRTIO_IOMMU_F_MAP_UNMAP = 2;
export const VIRTIO_IOMMU_F_BYPASS = 3;
export const VIRTIO_IOMMU_F_PROBE = 4;
export const VIRTIO_IOMMU_F_MMIO = 5;
export const VIRTIO_IOMMU_F_BYPASS_CONFIG = 6;

export const virtio_iommu_config = struct({
  page_size_mask: 8,
  input_range_start: 8,
  input_range_end: 8,
  domain_range_start: 4,
  domain_range_end: 4,
  probe_size: 4,
  bypass: 1,
  reserved: [1, 3],
});

export const VIRTIO_IOMMU_T_ATTACH = 1;
export const VIRTIO_IOMMU_T_DETACH = 2;
export const VIRTIO_IOMMU_T_MAP = 3;
export const VIRTIO_IOMMU_T_UNMAP = 4;
export const VIRTIO_IOMMU_T_PROBE = 5;

export const VIRTIO_IOMMU_S_OK = 0;
export const VIRTIO_IOMMU_S_DEVERR = 3;
export const VIRTIO_IOMMU_S_INVAL = 4;
export const VIRTIO_IOMMU_S_RANGE = 5;
export const VIRTIO_IOMMU_S_NOENT = 6;
export const VIRTIO_IOMMU_S_FAULT = 7;
export const VIRTIO_IOMMU_S_NOMEM = 8;

/** The device-readable part of each request, `struct virtio_iommu_req_head` (type, reserved) in front. */
export const virtio_iommu_req_attach = struct(
  { type: 4, domain: 4, endpoint: 4, flags: 4, reserved: 4 },
  true,
);
export const virtio_iommu_req_detach = struct(
  { type: 4, domain: 4, endpoint: 4, reserved: 8 },
  true,
);
export const virtio_iommu_req_map = struct(
  { type: 4, domain: 4, virt_start: 8, virt_end: 8, phys_start: 8, flags: 4 },
  true,
);
export const virtio_iommu_req_unmap = struct(
  { type: 4, domain: 4, virt_start: 8, virt_end: 8, reserved: 4 },
  true,
);
export const virtio_iommu_req_probe = struct({ type: 4, endpoint: 4, reserved: [1, 64] }, true);
export const virtio_iommu_req_tail = struct({ status: 1, reserved: [1, 3] });

export const VIRTIO_IOMMU_ATTACH_F_BYPASS = 1;
export const VIRTIO_IOMMU_MAP_F_READ = 1;
export const VIRTIO_IOMMU_MAP_F_WRITE = 2;

export const VIRTIO_IOMMU_PROBE_T_RESV_MEM = 1;
export const VIRTIO_IOMMU_RESV_MEM_T_MSI = 1;
export const virtio_iommu_probe_resv_mem = struct({
  type: 2,
  length: 2,
  subtype: 1,
  reserved: [1, 3],
  start: 8,
  end: 8,
});
/** `struct virtio_iommu_probe_property`, which is in front of it. */
export const VIRTIO_IOMMU_PROBE_HEAD = 4;

export const VIRTIO_IOMMU_FAULT_R_DOMAIN = 1;
export const VIRTIO_IOMMU_FAULT_R_MAPPING = 2;
export const VIRTIO_IOMMU_FAULT_F_READ = 1;
export const VIRTIO_IOMMU_FAULT_F_WRITE = 2;
export const VIRTIO_IOMMU_FAULT_F_ADDRESS = 1 << 8;
export const virtio_iommu_fault = struct({
  reason: 1,
  reserved: [1, 3],
  flags: 4,
  endpoint: 4,
  reserved1: 4,
  address: 8,
});
