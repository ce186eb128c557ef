/** An io_uring of its own: batches, completions, refusals. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { IORING_OP_FSYNC, IORING_OP_READV, IORING_OP_WRITEV } from '../../../src/abi/io-uring.ts';
import { Fd } from '../../../src/host/fd.ts';
import { IoUring } from '../../../src/host/io-uring.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';
import { O_RDWR } from '../../../src/host/syscall.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const folder = new TemporaryFolder();
t.teardown(() => folder[Symbol.dispose]());

/** An iovec for each piece of a buffer. */
function iovecs(memory: NativeMemory, length: number): NativeMemory {
  const count = memory.bytes.length / length;
  const vectors = new NativeMemory(count * 16);
  for (let i = 0; i < count; i++) {
    vectors.view.setBigUint64(i * 16, BigInt(memory.address + i * length), true);
    vectors.view.setBigUint64(i * 16 + 8, BigInt(length), true);
  }
  return vectors;
}

t.test('more requests than a batch holds, also past 4 GiB', async (t) => {
  const path = folder.file('file', 0);
  const file = Fd.open(path, O_RDWR);
  const ring = new IoUring(4, 64);
  const data = new NativeMemory(32 * 8);
  data.bytes.forEach((_, i) => {
    data.bytes[i] = i;
  });
  const vectors = iovecs(data, 8);
  const far = 5 * 2 ** 30;
  for (let i = 0; i < 32; i++) {
    const offset = i < 31 ? i * 8 : far;
    ring.queue(IORING_OP_WRITEV, file.fd, vectors.address + i * 16, 1, offset, 0, 0xffff_ff00 + i);
  }
  ring.submit();
  const seen = new Set<number>();
  while (seen.size < 32) {
    ring.wait();
    while (ring.reap()) {
      t.equal(ring.result, 8);
      seen.add(ring.userData);
    }
  }
  t.notOk(ring.reap(), 'nothing is left');
  t.ok(seen.has(0xffff_ff00 + 31), 'user data above 2^31');
  const back = new NativeMemory(8);
  const backVector = iovecs(back, 8);
  ring.queue(IORING_OP_READV, file.fd, backVector.address, 1, far, 0, 7);
  ring.submit();
  ring.wait();
  t.ok(ring.reap());
  t.same([ring.userData, ring.result], [7, 8]);
  t.same(back.bytes, data.bytes.subarray(31 * 8));
  ring[Symbol.dispose]();
  file.close();
});

t.test(
  'a request that the kernel refuses completes with its errno, and the rest continue',
  async (t) => {
    const path = folder.file('other', 16);
    const file = Fd.open(path, O_RDWR);
    const ring = new IoUring(8, 8);
    ring.queue(IORING_OP_FSYNC, 99999, 0, 0, 0, 0, 1);
    ring.queue(250, file.fd, 0, 0, 0, 0, 2);
    ring.queue(IORING_OP_FSYNC, file.fd, 0, 0, 0, 0, 3);
    ring.submit();
    const results = new Map<number, number>();
    while (results.size < 3) {
      ring.wait();
      while (ring.reap()) results.set(ring.userData, ring.result);
    }
    t.same([results.get(1), results.get(2), results.get(3)], [-9, -22, 0]);
    ring[Symbol.dispose]();
    ring[Symbol.dispose]();
    file.close();
    t.equal(readFileSync(path).length, 16);
  },
);
