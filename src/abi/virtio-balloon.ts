/** virtio 1.3 §5.5: traditional memory balloon device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_BALLOON = 5;

export const VIRTIO_BALLOON_F_MUST_TELL_HOST = 0;
export const VIRTIO_BALLOON_F_STATS_VQ = 1;
export const VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 2;
export const VIRTIO_BALLOON_F_FREE_PAGE_HINT = 3;
export const VIRTIO_BALLOON_F_PAGE_POISON = 4;
export const VIRTIO_BALLOON_F_PAGE_REPORTING = 5;

export const virtio_balloon_config = struct({
  num_pages: 4,
  actual: 4,
  free_page_hint_cmd_id: 4,
  poison_val: 4,
});

/** §5.5.6: page numbers count pages of 4096 bytes, whatever the guest's are. */
export const VIRTIO_BALLOON_PFN_SHIFT = 12;

export const virtio_balloon_stat = struct({ tag: 2, val: 8 }, true);

export const VIRTIO_BALLOON_S_SWAP_IN = 0;
export const VIRTIO_BALLOON_S_SWAP_OUT = 1;
export const VIRTIO_BALLOON_S_MAJFLT = 2;
export const VIRTIO_BALLOON_S_MINFLT = 3;
export const VIRTIO_BALLOON_S_MEMFREE = 4;
export const VIRTIO_BALLOON_S_MEMTOT = 5;
export const VIRTIO_BALLOON_S_AVAIL = 6;
export const VIRTIO_BALLOON_S_CACHES = 7;
export const VIRTIO_BALLOON_S_HTLB_PGALLOC = 8;
export const VIRTIO_BALLOON_S_HTLB_PGFAIL = 9;
