/**
 * What a backend keeps of the buffers that it has taken and not used (vhost-user.rst, "Inflight
 * I/O tracking"): for each queue a region's head, and an entry for each descriptor.
 */
import { struct } from './struct.ts';

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
