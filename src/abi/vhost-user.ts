/** The vhost-user protocol (vhost-user.rst): virtqueues served by another process, over a socket. */
import { struct } from './struct.ts';

/** Precedes each payload, and has its length. */
export const vhost_user_header = struct({ request: 4, flags: 4, payload_size: 4 });

/** In `flags`: the version, and two bits. */
export const VHOST_USER_VERSION_MASK = 0x3;
export const VHOST_USER_VERSION = 0x1;
export const VHOST_USER_REPLY_MASK = 0x4;
export const VHOST_USER_NEED_REPLY_MASK = 0x8;

/** Feature bit, in virtio's unused bit 30: protocol features can be negotiated. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;
/** Feature bit of live migration, never a virtio driver's. */
export const VHOST_F_LOG_ALL = 26;

export const VHOST_USER_PROTOCOL_F_MQ = 0;
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = 3;
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5;
export const VHOST_USER_PROTOCOL_F_CONFIG = 9;
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12;
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13;
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
export const VHOST_USER_PROTOCOL_F_STATUS = 16;

/** What a frontend asks of a backend. */
export const VHOST_USER_GET_FEATURES = 1;
export const VHOST_USER_SET_FEATURES = 2;
export const VHOST_USER_SET_OWNER = 3;
export const VHOST_USER_RESET_OWNER = 4;
export const VHOST_USER_SET_MEM_TABLE = 5;
export const VHOST_USER_SET_VRING_NUM = 8;
export const VHOST_USER_SET_VRING_ADDR = 9;
export const VHOST_USER_SET_VRING_BASE = 10;
export const VHOST_USER_GET_VRING_BASE = 11;
export const VHOST_USER_SET_VRING_KICK = 12;
export const VHOST_USER_SET_VRING_CALL = 13;
export const VHOST_USER_SET_VRING_ERR = 14;
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15;
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16;
export const VHOST_USER_GET_QUEUE_NUM = 17;
export const VHOST_USER_SET_VRING_ENABLE = 18;
export const VHOST_USER_SET_BACKEND_REQ_FD = 21;
export const VHOST_USER_IOTLB_MSG = 22;
export const VHOST_USER_GET_CONFIG = 24;
export const VHOST_USER_SET_CONFIG = 25;
export const VHOST_USER_GET_INFLIGHT_FD = 31;
export const VHOST_USER_SET_INFLIGHT_FD = 32;
export const VHOST_USER_RESET_DEVICE = 34;
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36;
export const VHOST_USER_ADD_MEM_REG = 37;
export const VHOST_USER_REM_MEM_REG = 38;
export const VHOST_USER_SET_STATUS = 39;
export const VHOST_USER_GET_STATUS = 40;

/** What a backend asks of a frontend, on the channel of VHOST_USER_SET_BACKEND_REQ_FD. */
export const VHOST_USER_BACKEND_IOTLB_MSG = 1;
export const VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2;

/** In the u64 that comes with a kick, call or error descriptor: the ring, and "no descriptor". */
export const VHOST_USER_VRING_IDX_MASK = 0xff;
export const VHOST_USER_VRING_NOFD_MASK = 0x100;

/** Regions in one memory table, and so descriptors in one message. */
export const VHOST_USER_MAX_REGIONS = 8;
/** Bytes of configuration space in one message. */
export const VHOST_USER_MAX_CONFIG_SIZE = 256;

/** `regions` follow. */
export const vhost_user_memory = struct({ nregions: 4, padding: 4 });
export const vhost_user_memory_region = struct({
  guest_phys_addr: 8,
  memory_size: 8,
  userspace_addr: 8,
  mmap_offset: 8,
});
/** 8 bytes of padding precede the region. */
export const VHOST_USER_MEM_REG_PADDING = 8;

/** `length` bytes of the configuration space follow. */
export const vhost_user_config = struct({ offset: 4, length: 4, flags: 4 });
/** In its `flags`: for live migration, also fields that the driver may not write. */
export const VHOST_USER_CONFIG_LIVE_MIGRATION = 1;

/** Peers send it with and without the 4 bytes of padding that C gives it. */
export const vhost_user_inflight = struct(
  { mmap_size: 8, mmap_offset: 8, num_queues: 2, queue_size: 2 },
  true,
);

/*
 * What a backend keeps of the buffers that it has taken and not used ("Inflight I/O tracking"): for
 * each queue a region's head, and an entry for each descriptor.
 */

/** In each head's `version`; 0: nothing was written yet. */
export const INFLIGHT_VERSION = 1;

/** `DescStateSplit` entries follow. */
export const QueueRegionSplit = struct({
  features: 8,
  version: 2,
  desc_num: 2,
  last_batch_head: 2,
  used_idx: 2,
});
export const DescStateSplit = struct({ inflight: 1, padding: [1, 5], next: 2, counter: 8 });

/** `DescStatePacked` entries follow. */
export const QueueRegionPacked = struct({
  features: 8,
  version: 2,
  desc_num: 2,
  free_head: 2,
  old_free_head: 2,
  used_idx: 2,
  old_used_idx: 2,
  used_wrap_counter: 1,
  old_used_wrap_counter: 1,
  padding: [1, 7],
});
export const DescStatePacked = struct({
  inflight: 1,
  padding: 1,
  next: 2,
  last: 2,
  num: 2,
  counter: 8,
  id: 2,
  flags: 2,
  len: 4,
  addr: 8,
});
