/** linux/vduse.h: a virtio device of this host's kernel that a process implements. */
import { _IO, _IOR, _IOW, _IOWR, struct } from './struct.ts';

export const VDUSE_NAME_MAX = 256;

/** The configuration space follows. */
export const vduse_dev_config = struct({
  name: [1, VDUSE_NAME_MAX],
  vendor_id: 4,
  device_id: 4,
  features: 8,
  vq_num: 4,
  vq_align: 4,
  reserved: [4, 13],
  config_size: 4,
});
export const vduse_iotlb_entry = struct({ offset: 8, start: 8, last: 8, perm: 1 });
/** `buffer` follows. */
export const vduse_config_data = struct({ offset: 4, length: 4 });
export const vduse_vq_config = struct({ index: 4, max_size: 2, reserved: [2, 13] });
/** The state is a union of split and packed (§2.7, §2.8): `avail_index`, or the four fields below. */
export const vduse_vq_info = struct({
  index: 4,
  num: 4,
  desc_addr: 8,
  driver_addr: 8,
  device_addr: 8,
  last_avail_counter: 2,
  last_avail_idx: 2,
  last_used_counter: 2,
  last_used_idx: 2,
  ready: 1,
});
export const vduse_vq_eventfd = struct({ index: 4, fd: 4 });

/** What follows `reserved` is a union: a queue's state, the status, or a range of addresses. */
export const vduse_dev_request = struct({
  type: 4,
  request_id: 4,
  reserved: [4, 4],
  padding: [4, 32],
});
export const vduse_dev_response = struct({
  request_id: 4,
  result: 4,
  reserved: [4, 4],
  padding: [4, 32],
});
/** In both unions. */
export const vduse_vq_state = struct({
  index: 4,
  last_avail_counter: 2,
  last_avail_idx: 2,
  last_used_counter: 2,
  last_used_idx: 2,
});

export const VDUSE_GET_VQ_STATE = 0;
export const VDUSE_SET_STATUS = 1;
export const VDUSE_UPDATE_IOTLB = 2;

export const VDUSE_REQ_RESULT_OK = 0;
export const VDUSE_REQ_RESULT_FAILED = 1;

export const VDUSE_ACCESS_RO = 1;

export const VDUSE_API_VERSION = 0;
const VDUSE_BASE = 0x81;
export const VDUSE_SET_API_VERSION = _IOW(VDUSE_BASE, 0x01, 8);
export const VDUSE_CREATE_DEV = _IOW(VDUSE_BASE, 0x02, vduse_dev_config.size);
export const VDUSE_DESTROY_DEV = _IOW(VDUSE_BASE, 0x03, VDUSE_NAME_MAX);
export const VDUSE_IOTLB_GET_FD = _IOWR(VDUSE_BASE, 0x10, vduse_iotlb_entry.size);
export const VDUSE_DEV_GET_FEATURES = _IOR(VDUSE_BASE, 0x11, 8);
export const VDUSE_DEV_SET_CONFIG = _IOW(VDUSE_BASE, 0x12, vduse_config_data.size);
export const VDUSE_DEV_INJECT_CONFIG_IRQ = _IO(VDUSE_BASE, 0x13);
export const VDUSE_VQ_SETUP = _IOW(VDUSE_BASE, 0x14, vduse_vq_config.size);
export const VDUSE_VQ_GET_INFO = _IOWR(VDUSE_BASE, 0x15, vduse_vq_info.size);
export const VDUSE_VQ_SETUP_KICKFD = _IOW(VDUSE_BASE, 0x16, vduse_vq_eventfd.size);
export const VDUSE_VQ_INJECT_IRQ = _IOW(VDUSE_BASE, 0x17, 4);
