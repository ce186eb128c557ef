/** linux/virtio_fs.h: the file system device (virtio 1.3 §5.11). */
import { struct } from './struct.ts';

export const VIRTIO_ID_FS = 26;

/** Without `notify_buf_size`, which goes with VIRTIO_FS_F_NOTIFICATION. */
export const virtio_fs_config = struct({ tag: [1, 36], num_request_queues: 4 }, true);
