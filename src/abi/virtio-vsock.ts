/** virtio 1.3 §5.10: socket device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_VSOCK = 19;

export const VIRTIO_VSOCK_F_STREAM = 0;
export const VIRTIO_VSOCK_F_SEQPACKET = 1;
export const VIRTIO_VSOCK_F_NO_IMPLIED_STREAM = 2;

export const virtio_vsock_config = struct({ guest_cid: 8 }, true);
export const virtio_vsock_hdr = struct(
  {
    src_cid: 8,
    dst_cid: 8,
    src_port: 4,
    dst_port: 4,
    len: 4,
    type: 2,
    op: 2,
    flags: 4,
    buf_alloc: 4,
    fwd_cnt: 4,
  },
  true,
);
export const virtio_vsock_event = struct({ id: 4 }, true);

/** linux/vm_sockets.h: the host's address, and the lowest and highest that a guest may have. */
export const VMADDR_CID_HOST = 2;
export const GUEST_CID_MIN = 3;
export const GUEST_CID_MAX = 0xffff_fffe;

export const VIRTIO_VSOCK_TYPE_STREAM = 1;
export const VIRTIO_VSOCK_TYPE_SEQPACKET = 2;

export const VIRTIO_VSOCK_OP_INVALID = 0;
export const VIRTIO_VSOCK_OP_REQUEST = 1;
export const VIRTIO_VSOCK_OP_RESPONSE = 2;
export const VIRTIO_VSOCK_OP_RST = 3;
export const VIRTIO_VSOCK_OP_SHUTDOWN = 4;
export const VIRTIO_VSOCK_OP_RW = 5;
export const VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6;
export const VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7;

/** Values of `flags`: bits 0 and 1 of §5.10.6.5, as linux/virtio_vsock.h has them. */
export const VIRTIO_VSOCK_SHUTDOWN_RCV = 1;
export const VIRTIO_VSOCK_SHUTDOWN_SEND = 2;

export const VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;
