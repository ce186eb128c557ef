/** virtio 1.3 §5.19: PMEM device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_PMEM = 27;

export const VIRTIO_PMEM_F_SHMEM_REGION = 0;

/** `length` is its `size`. */
export const virtio_pmem_config = struct({ start: 8, length: 8 });

export const VIRTIO_PMEM_REQ_TYPE_FLUSH = 0;

export const virtio_pmem_req = struct({ type: 4 });
export const virtio_pmem_resp = struct({ ret: 4 });
