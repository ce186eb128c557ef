/** The block device's configuration space, requests and constants: virtio 1.3 §5.2. */
import { struct } from './struct.ts';

export const VIRTIO_ID_BLOCK = 2;

/** Feature bit numbers, §5.2.3. */
export const VIRTIO_BLK_F_SEG_MAX = 2;
export const VIRTIO_BLK_F_RO = 5;
export const VIRTIO_BLK_F_BLK_SIZE = 6;
export const VIRTIO_BLK_F_FLUSH = 9;
export const VIRTIO_BLK_F_TOPOLOGY = 10;
export const VIRTIO_BLK_F_CONFIG_WCE = 11;
export const VIRTIO_BLK_F_MQ = 12;
export const VIRTIO_BLK_F_DISCARD = 13;
export const VIRTIO_BLK_F_WRITE_ZEROES = 14;

/** §5.2.4, up to the last field of a feature that is offered; nested structs flattened. */
export const virtio_blk_config = struct(
  {
    capacity: 8,
    size_max: 4,
    seg_max: 4,
    cylinders: 2,
    heads: 1,
    sectors: 1,
    blk_size: 4,
    physical_block_exp: 1,
    alignment_offset: 1,
    min_io_size: 2,
    opt_io_size: 4,
    writeback: 1,
    unused0: 1,
    num_queues: 2,
    max_discard_sectors: 4,
    max_discard_seg: 4,
    discard_sector_alignment: 4,
    max_write_zeroes_sectors: 4,
    max_write_zeroes_seg: 4,
    write_zeroes_may_unmap: 1,
    unused1: [1, 3],
  },
  true,
);

/** The device-readable start of every request (§5.2.6); data follows, a status byte ends it. */
export const virtio_blk_req = struct({ type: 4, reserved: 4, sector: 8 });

/** A segment of a discard or write zeroes request. */
export const virtio_blk_discard_write_zeroes = struct({ sector: 8, num_sectors: 4, flags: 4 });
/** Bit 0 of its flags: the sectors may be deallocated. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1;

export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_FLUSH = 4;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;

export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;

/** Bytes of the device ID string. */
export const VIRTIO_BLK_ID_BYTES = 20;

/** The unit of `sector`, `capacity` and the limits, whatever `blk_size` is (§5.2.5). */
export const SECTOR_SIZE = 512;
