/** linux/vhost.h and linux/vhost_types.h: a vDPA device of this host, as the process that drives it sees it. */
import { _IO, _IOR, _IOW, _IOWR, struct } from './struct.ts';
import { vhost_vring_state } from './vhost.ts';

/** `buf` follows. */
export const vhost_vdpa_config = struct({ off: 4, len: 4 });
export const vhost_vdpa_iova_range = struct({ first: 8, last: 8 });

export const VHOST_IOTLB_BATCH_BEGIN = 5;
export const VHOST_IOTLB_BATCH_END = 6;

/** Bit numbers of the backend features of vDPA devices. */
export const VHOST_BACKEND_F_IOTLB_BATCH = 2;
export const VHOST_BACKEND_F_IOTLB_ASID = 3;
export const VHOST_BACKEND_F_SUSPEND = 4;
export const VHOST_BACKEND_F_RESUME = 5;

const VHOST_VIRTIO = 0xaf;
export const VHOST_VDPA_GET_DEVICE_ID = _IOR(VHOST_VIRTIO, 0x70, 4);
export const VHOST_VDPA_GET_STATUS = _IOR(VHOST_VIRTIO, 0x71, 1);
export const VHOST_VDPA_SET_STATUS = _IOW(VHOST_VIRTIO, 0x72, 1);
export const VHOST_VDPA_GET_CONFIG = _IOR(VHOST_VIRTIO, 0x73, vhost_vdpa_config.size);
export const VHOST_VDPA_SET_CONFIG = _IOW(VHOST_VIRTIO, 0x74, vhost_vdpa_config.size);
export const VHOST_VDPA_SET_VRING_ENABLE = _IOW(VHOST_VIRTIO, 0x75, vhost_vring_state.size);
export const VHOST_VDPA_GET_VRING_NUM = _IOR(VHOST_VIRTIO, 0x76, 2);
export const VHOST_VDPA_SET_CONFIG_CALL = _IOW(VHOST_VIRTIO, 0x77, 4);
export const VHOST_VDPA_GET_IOVA_RANGE = _IOR(VHOST_VIRTIO, 0x78, vhost_vdpa_iova_range.size);
export const VHOST_VDPA_GET_CONFIG_SIZE = _IOR(VHOST_VIRTIO, 0x79, 4);
export const VHOST_VDPA_GET_AS_NUM = _IOR(VHOST_VIRTIO, 0x7a, 4);
export const VHOST_VDPA_GET_VRING_GROUP = _IOWR(VHOST_VIRTIO, 0x7b, vhost_vring_state.size);
export const VHOST_VDPA_SET_GROUP_ASID = _IOW(VHOST_VIRTIO, 0x7c, vhost_vring_state.size);
export const VHOST_VDPA_SUSPEND = _IO(VHOST_VIRTIO, 0x7d);
export const VHOST_VDPA_RESUME = _IO(VHOST_VIRTIO, 0x7e);
export const VHOST_VDPA_GET_VQS_COUNT = _IOR(VHOST_VIRTIO, 0x80, 4);
export const VHOST_VDPA_GET_GROUP_NUM = _IOR(VHOST_VIRTIO, 0x81, 4);
