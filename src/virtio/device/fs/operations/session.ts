/**
 * INIT and DESTROY: a mount, from begin to end; and FORGET. Nothing else depends on
 * INIT, so that a guest whose backend was restarted finds its names again.
 */
import { EINVAL, EPROTO } from '../../../../abi/errno.ts';
import * as fuse from '../../../../abi/fuse.ts';
import type { FileSystem } from '../file-system.ts';
import { BODY, type FuseRequest, NODEID } from '../fuse-request.ts';
import { NO_ANSWER, type Operation } from './operation.ts';

/** Linux 5.4, the first with a driver for this device. */
const OLDEST_MINOR = 31;
/** Pages of 4 KiB that a request may carry; drivers lower it to what a queue can hold. */
const MAX_PAGES = 256;
/** Data of one READ or WRITE; a driver that asks for more is not the one that received our INIT. */
export const MAX_WRITE = MAX_PAGES * 4096;
/** Background requests, such as read-ahead: as many as keep the device busy. */
const MAX_BACKGROUND = 64;
const CONGESTION_THRESHOLD = 48;

const FLAGS =
  fuse.FUSE_ASYNC_READ |
  fuse.FUSE_ATOMIC_O_TRUNC |
  fuse.FUSE_BIG_WRITES |
  fuse.FUSE_AUTO_INVAL_DATA |
  fuse.FUSE_DO_READDIRPLUS |
  fuse.FUSE_READDIRPLUS_AUTO |
  fuse.FUSE_ASYNC_DIO |
  fuse.FUSE_PARALLEL_DIROPS |
  fuse.FUSE_MAX_PAGES |
  fuse.FUSE_SUBMOUNTS |
  fuse.FUSE_HANDLE_KILLPRIV_V2;

/** POSIX ACLs, and their prerequisites: all or none are enabled. Linux 5.12. */
const ACL_FLAGS = fuse.FUSE_POSIX_ACL | fuse.FUSE_DONT_MASK | fuse.FUSE_SETXATTR_EXT;

const init: Operation = {
  takes: fuse.fuse_init_in.size,
  gives: fuse.fuse_init_out.size,
  run(fs: FileSystem, request: FuseRequest): number {
    const { major, minor, max_readahead, flags } = fuse.fuse_init_in;
    const version = request.u32(BODY + major.offset);
    if (version < fuse.FUSE_KERNEL_VERSION) return -EPROTO;
    const out = fuse.fuse_init_out;
    const { bytes, view } = request.output;
    bytes.fill(0, 0, out.size);
    view.setUint32(out.major.offset, fuse.FUSE_KERNEL_VERSION, true);
    view.setUint32(out.minor.offset, fuse.FUSE_KERNEL_MINOR_VERSION, true);
    // A newer driver asks again, with our version.
    if (version > fuse.FUSE_KERNEL_VERSION) return out.size;
    if (request.u32(BODY + minor.offset) < OLDEST_MINOR) return -EPROTO;
    fs.forgetAll();
    const offered = request.u32(BODY + flags.offset);
    fs.heedsAcls = (offered & ACL_FLAGS) === ACL_FLAGS;
    const agreed = offered & (fs.heedsAcls ? FLAGS | ACL_FLAGS : FLAGS);
    fs.showsSubmounts = (agreed & fuse.FUSE_SUBMOUNTS) !== 0;
    view.setUint32(out.max_readahead.offset, request.u32(BODY + max_readahead.offset), true);
    view.setUint32(out.flags.offset, agreed, true);
    view.setUint16(out.max_background.offset, MAX_BACKGROUND, true);
    view.setUint16(out.congestion_threshold.offset, CONGESTION_THRESHOLD, true);
    view.setUint32(out.max_write.offset, MAX_WRITE, true);
    view.setUint32(out.time_gran.offset, 1, true);
    view.setUint16(out.max_pages.offset, MAX_PAGES, true);
    return out.size;
  },
};

const destroy: Operation = {
  takes: 0,
  gives: 0,
  run(fs: FileSystem): number {
    fs.forgetAll();
    return 0;
  },
};

const forget: Operation = {
  takes: fuse.fuse_forget_in.size,
  gives: 0,
  run(fs: FileSystem, request: FuseRequest): number {
    fs.inodes.forget(fs.inodeAt(request, NODEID), request.u64(BODY));
    return NO_ANSWER;
  },
};

const batchForget: Operation = {
  takes: fuse.fuse_batch_forget_in.size,
  gives: 0,
  run(fs: FileSystem, request: FuseRequest): number {
    const { nodeid, nlookup, size } = fuse.fuse_forget_one;
    const first = BODY + fuse.fuse_batch_forget_in.size;
    const count = request.u32(BODY);
    if (count > (request.length - first) / size) return -EINVAL;
    for (let at = first; at < first + count * size; at += size) {
      const inode = fs.inodeAt(request, at + nodeid.offset);
      fs.inodes.forget(inode, request.u64(at + nlookup.offset));
    }
    return NO_ANSWER;
  },
};

/** Nothing takes long enough to be interrupted: each request is done before the next is read. */
const interrupt: Operation = { takes: 0, gives: 0, run: () => NO_ANSWER };

export const sessionOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_INIT, init],
  [fuse.FUSE_DESTROY, destroy],
  [fuse.FUSE_FORGET, forget],
  [fuse.FUSE_BATCH_FORGET, batchForget],
  [fuse.FUSE_INTERRUPT, interrupt],
]);
