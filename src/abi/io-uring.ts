/** io_uring(7): the structures and constants of linux/io_uring.h that nodevmm uses. */
import { struct } from './struct.ts';

/** `struct io_uring_params` with `sq_off` and `cq_off` flattened. */
export const io_uring_params = struct({
  sq_entries: 4,
  cq_entries: 4,
  flags: 4,
  sq_thread_cpu: 4,
  sq_thread_idle: 4,
  features: 4,
  wq_fd: 4,
  resv: [4, 3],
  sq_off_head: 4,
  sq_off_tail: 4,
  sq_off_ring_mask: 4,
  sq_off_ring_entries: 4,
  sq_off_flags: 4,
  sq_off_dropped: 4,
  sq_off_array: 4,
  sq_off_resv1: 4,
  sq_off_user_addr: 8,
  cq_off_head: 4,
  cq_off_tail: 4,
  cq_off_ring_mask: 4,
  cq_off_ring_entries: 4,
  cq_off_overflow: 4,
  cq_off_cqes: 4,
  cq_off_flags: 4,
  cq_off_resv1: 4,
  cq_off_user_addr: 8,
});

/** `struct io_uring_sqe`; unions under the name that reads and writes use. */
export const io_uring_sqe = struct({
  opcode: 1,
  flags: 1,
  ioprio: 2,
  fd: 4,
  off: 8,
  addr: 8,
  len: 4,
  rw_flags: 4,
  user_data: 8,
  buf_index: 2,
  personality: 2,
  file_index: 4,
  addr3: 8,
  pad2: 8,
});

export const io_uring_cqe = struct({ user_data: 8, res: 4, flags: 4 });

export const IORING_OP_READV = 1;
export const IORING_OP_WRITEV = 2;
export const IORING_OP_FSYNC = 3;
export const IORING_OP_FALLOCATE = 17;

export const IORING_FSYNC_DATASYNC = 1 << 0;

export const IORING_SETUP_CQSIZE = 1 << 3;
export const IORING_SETUP_CLAMP = 1 << 4;
export const IORING_SETUP_COOP_TASKRUN = 1 << 8;
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12;

export const IORING_FEAT_SINGLE_MMAP = 1 << 0;
export const IORING_FEAT_NODROP = 1 << 1;

export const IORING_OFF_SQ_RING = 0;
export const IORING_OFF_SQES = 0x10000000;

export const IORING_ENTER_GETEVENTS = 1 << 0;

/** System call numbers on x86-64. */
export const SYS_io_uring_setup = 425;
export const SYS_io_uring_enter = 426;
