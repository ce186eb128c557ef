/** virtio 1.3 §5.15: memory device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_MEM = 24;

export const VIRTIO_MEM_F_ACPI_PXM = 0;
export const VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE = 1;

export const virtio_mem_config = struct({
  block_size: 8,
  node_id: 2,
  padding: [1, 6],
  addr: 8,
  region_size: 8,
  usable_region_size: 8,
  plugged_size: 8,
  requested_size: 8,
});

export const VIRTIO_MEM_REQ_PLUG = 0;
export const VIRTIO_MEM_REQ_UNPLUG = 1;
export const VIRTIO_MEM_REQ_UNPLUG_ALL = 2;
export const VIRTIO_MEM_REQ_STATE = 3;

/** Of all requests that name blocks. */
export const virtio_mem_req = struct({
  type: 2,
  padding: [2, 3],
  addr: 8,
  nb_blocks: 2,
  padding_blocks: [2, 3],
});

export const VIRTIO_MEM_RESP_ACK = 0;
export const VIRTIO_MEM_RESP_NACK = 1;
export const VIRTIO_MEM_RESP_BUSY = 2;
export const VIRTIO_MEM_RESP_ERROR = 3;

export const VIRTIO_MEM_STATE_PLUGGED = 0;
export const VIRTIO_MEM_STATE_UNPLUGGED = 1;
export const VIRTIO_MEM_STATE_MIXED = 2;

export const virtio_mem_resp = struct({ type: 2, padding: [2, 3], state: 2 });
