/** What the file of KVM_GET_STATS_FD holds (`linux/kvm.h`, KVM API 4.133). */
import { struct } from './struct.ts';

export const kvm_stats_header = struct({
  flags: 4,
  name_size: 4,
  num_desc: 4,
  id_offset: 4,
  desc_offset: 4,
  data_offset: 4,
});
/** `name_size` bytes of the name follow. */
export const kvm_stats_desc = struct({
  flags: 4,
  exponent: 2,
  size_: 2,
  offset: 4,
  bucket_size: 4,
});
/** In `kvm_stats_desc.flags`. */
export const KVM_STATS_TYPE_MASK = 0xf;
/** It only grows. */
export const KVM_STATS_TYPE_CUMULATIVE = 0;
