/** linux/vhost.h and linux/vhost_types.h: virtqueues served by the host kernel. */
import { _IO, _IOR, _IOW, _IOWR, struct } from './struct.ts';

export const vhost_vring_state = struct({ index: 4, num: 4 });
export const vhost_vring_file = struct({ index: 4, fd: 4 });
export const vhost_vring_addr = struct({
  index: 4,
  flags: 4,
  desc_user_addr: 8,
  used_user_addr: 8,
  avail_user_addr: 8,
  log_guest_addr: 8,
});
/** `regions` follow. */
export const vhost_memory = struct({ nregions: 4, padding: 4 });
export const vhost_memory_region = struct({
  guest_phys_addr: 8,
  memory_size: 8,
  userspace_addr: 8,
  flags_padding: 8,
});
/** In a `vhost_msg_v2`, at its `padding`. `size_` is `size`, which is the struct's own size here. */
export const vhost_iotlb_msg = struct({ iova: 8, size_: 8, uaddr: 8, perm: 1, type: 1 });
export const vhost_msg_v2 = struct({ type: 4, asid: 4, padding: [1, 64] });

export const VHOST_IOTLB_MSG_V2 = 2;
export const VHOST_IOTLB_MISS = 1;
export const VHOST_IOTLB_UPDATE = 2;
export const VHOST_IOTLB_INVALIDATE = 3;
export const VHOST_IOTLB_ACCESS_FAIL = 4;
export const VHOST_ACCESS_RO = 1;
export const VHOST_ACCESS_WO = 2;
export const VHOST_ACCESS_RW = 3;

/** Bit number of a backend feature. */
export const VHOST_BACKEND_F_IOTLB_MSG_V2 = 1;

const VHOST_VIRTIO = 0xaf;
export const VHOST_GET_FEATURES = _IOR(VHOST_VIRTIO, 0x00, 8);
export const VHOST_SET_FEATURES = _IOW(VHOST_VIRTIO, 0x00, 8);
export const VHOST_SET_OWNER = _IO(VHOST_VIRTIO, 0x01);
export const VHOST_SET_MEM_TABLE = _IOW(VHOST_VIRTIO, 0x03, vhost_memory.size);
export const VHOST_SET_VRING_NUM = _IOW(VHOST_VIRTIO, 0x10, vhost_vring_state.size);
export const VHOST_SET_VRING_ADDR = _IOW(VHOST_VIRTIO, 0x11, vhost_vring_addr.size);
export const VHOST_SET_VRING_BASE = _IOW(VHOST_VIRTIO, 0x12, vhost_vring_state.size);
export const VHOST_GET_VRING_BASE = _IOWR(VHOST_VIRTIO, 0x12, vhost_vring_state.size);
export const VHOST_SET_VRING_KICK = _IOW(VHOST_VIRTIO, 0x20, vhost_vring_file.size);
export const VHOST_SET_VRING_CALL = _IOW(VHOST_VIRTIO, 0x21, vhost_vring_file.size);
export const VHOST_SET_VRING_ERR = _IOW(VHOST_VIRTIO, 0x22, vhost_vring_file.size);
export const VHOST_SET_BACKEND_FEATURES = _IOW(VHOST_VIRTIO, 0x25, 8);
export const VHOST_GET_BACKEND_FEATURES = _IOR(VHOST_VIRTIO, 0x26, 8);
export const VHOST_NET_SET_BACKEND = _IOW(VHOST_VIRTIO, 0x30, vhost_vring_file.size);
/** The guest's context ID, 8 bytes; then 1 or 0, an int. */
export const VHOST_VSOCK_SET_GUEST_CID = _IOW(VHOST_VIRTIO, 0x60, 8);
export const VHOST_VSOCK_SET_RUNNING = _IOW(VHOST_VIRTIO, 0x61, 4);

/** As a file descriptor: none. */
export const VHOST_FILE_UNBIND = -1;
