/** Guest RAM that is shared with other processes. */
import { readlinkSync } from 'node:fs';
import t from 'tap';
import * as sys from '../../../src/host/syscall.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';

t.test('a memory file that others map cannot be cut off, nor the seal be broken', (t) => {
  using ram = new Ram(2 * MiB, 'memfd');
  const { fd } = ram.memory.share;
  t.match(readlinkSync(`/proc/self/fd/${fd}`), /memfd:nodevmm-ram/);
  for (const size of [0, MiB, 3 * MiB]) {
    t.equal(sys.errnoName(-sys.ftruncate(fd, size)), 'EPERM', `${size} bytes`);
  }
  t.equal(sys.errnoName(-sys.addSeals(fd, 8)), 'EPERM');
  t.end();
});

t.test('private RAM has no file', (t) => {
  using ram = new Ram(MiB);
  t.equal(ram.memory.share.fd, -1);
  t.end();
});
