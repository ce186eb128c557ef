/** io_uring and block device structs, against the kernel headers. */
import t from 'tap';
import { io_uring_cqe, io_uring_params, io_uring_sqe } from '../../../src/abi/io-uring.ts';
import {
  virtio_blk_config,
  virtio_blk_discard_write_zeroes,
  virtio_blk_req,
} from '../../../src/abi/virtio-blk.ts';
import { compilerMissing, expectedLines, printStruct, runC, type StructCase } from './c-program.ts';

const headers = ['linux/io_uring.h', 'linux/virtio_blk.h'];

const same = (field: string): string => field;

/** Members that our tables flatten or that a header calls otherwise. */
const paths: Readonly<Record<string, string>> = {
  cylinders: 'geometry.cylinders',
  heads: 'geometry.heads',
  sectors: 'geometry.sectors',
  writeback: 'wce',
  unused0: 'unused',
  reserved: 'ioprio',
};

/** Leaves out what old headers call otherwise. */
function without<T extends { readonly size: number }>(layout: T, ...fields: string[]): T {
  const kept = Object.entries(layout).filter(([field]) => !fields.includes(field));
  return Object.fromEntries(kept) as unknown as T;
}

const cases: StructCase[] = [
  { name: 'cqe', layout: io_uring_cqe, type: 'struct io_uring_cqe', path: same },
  {
    name: 'sqe',
    layout: without(io_uring_sqe, 'pad2', 'file_index', 'addr3'),
    type: 'struct io_uring_sqe',
    path: same,
  },
  {
    name: 'params',
    layout: without(io_uring_params, 'sq_off_user_addr', 'cq_off_user_addr'),
    type: 'struct io_uring_params',
    path: (field) => field.replace(/^([sc]q_off)_/, '$1.'),
  },
  {
    name: 'request',
    layout: virtio_blk_req,
    type: 'struct virtio_blk_outhdr',
    path: (field) => paths[field] ?? field,
  },
  {
    name: 'range',
    layout: virtio_blk_discard_write_zeroes,
    type: 'struct virtio_blk_discard_write_zeroes',
    path: same,
  },
  {
    name: 'config',
    layout: without(virtio_blk_config, 'size'),
    type: 'struct virtio_blk_config',
    path: (field) => paths[field] ?? field,
  },
];

t.test("offsets and sizes are the C compiler's", { skip: compilerMissing(headers) }, async (t) => {
  // The header's configuration has more fields, of features that are not offered.
  const wanted = (line: string): boolean => !line.startsWith('config ');
  const printed = runC(headers, cases.map(printStruct).join('\n')).filter(wanted);
  t.same(printed, cases.flatMap(expectedLines).filter(wanted));
});
