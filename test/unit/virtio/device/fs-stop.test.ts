/** How long a shared folder may keep its thread, whatever its driver asks for. */
import { truncateSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { O_RDWR } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import { VIRTIO_F_RING_PACKED } from '../../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { handleOf, join, pack, SharedFolder } from '../../../support/rigs/fs-driver.ts';

const KEEP_SIZE_AND_PUNCH_HOLE = 3;

t.test('READ and WRITE of more than INIT negotiated are refused', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  truncateSync(folder.at('file'), 4 * MiB);
  const fh = handleOf(fs.open(fs.find('file'), O_RDWR));
  t.equal(fs.read(fh, 0, MiB).bytes.length, MiB);
  t.equal(fs.read(fh, 0, MiB + 1).error, errno.EINVAL);
  t.equal(fs.write(fh, 0, new Uint8Array(MiB)).error, 0);
  t.equal(fs.write(fh, 0, new Uint8Array(MiB + 1)).error, errno.EINVAL);
});

for (const ring of [[], [VIRTIO_F_RING_PACKED]]) {
  const format = ring.length === 0 ? 'split' : 'packed';
  t.test(`waiting requests are left to the next datapath (${format})`, async (t) => {
    using folder = new SharedFolder();
    const fs = folder.driver({ ring });
    const body = pack(fuse.fuse_getattr_in);
    const queue = fs.rig.queue(1);
    for (let i = 0; i < 20; i++) {
      queue.add({
        readable: [join(fs.header(fuse.FUSE_GETATTR, 1, body.length), body)],
        writable: [16 + fuse.fuse_attr_out.size],
      });
    }
    fs.rig.interrupted = true;
    fs.rig.kick(1);
    t.equal(queue.completed().length, 1, 'one for each kick');
    fs.rig.interrupted = false;
    fs.handOver();
    fs.rig.pump();
    t.equal(queue.completed().length, 19);
  });

  t.test(`FALLOCATE of a long range is done in pieces (${format})`, async (t) => {
    using folder = new SharedFolder();
    const fs = folder.driver({ ring });
    const fh = handleOf(fs.open(fs.find('file'), O_RDWR));
    const body = pack(fuse.fuse_fallocate_in, {
      fh,
      mode: KEEP_SIZE_AND_PUNCH_HOLE,
      length: 2 ** 40,
    });
    const queue = fs.rig.queue(1);
    const readable = [join(fs.header(fuse.FUSE_FALLOCATE, 0, body.length), body)];
    queue.add({ readable, writable: [16] });
    fs.rig.interrupted = true;
    fs.rig.kick(1);
    t.same(queue.completed(), [], 'it was given back');
    fs.rig.interrupted = false;
    fs.handOver();
    fs.rig.pump();
    const [done] = queue.completed();
    t.equal(done?.written, 16);
    t.equal(Buffer.from(done?.data ?? []).readInt32LE(4), 0);
  });
}
