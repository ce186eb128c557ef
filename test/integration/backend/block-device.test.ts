/** A block device of the host as a disk, where this host lets us make one. */
import { spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import t from 'tap';
import * as abi from '../../../src/abi/virtio-blk.ts';
import { RawFile } from '../../../src/backend/raw-file.ts';
import { BlkDriver, blkRange, TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const SIZE = 4 * 2 ** 20;
const folder = new TemporaryFolder();
const path = folder.file('medium', new Uint8Array(SIZE).fill(0x5a));

function losetup(...args: string[]): string | null {
  const { status, stdout } = spawnSync('losetup', args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

const loop = losetup('-f', '--show', path);
const skip = loop === null ? 'needs a loop device (root, losetup)' : false;
t.teardown(() => {
  if (loop !== null) losetup('-d', loop);
  folder[Symbol.dispose]();
});

for (const engine of ['sync', 'io_uring'] as const) {
  t.test(`a loop device is a disk (${engine})`, { skip }, async (t) => {
    const disk = new BlkDriver(loop as string, { engine });
    const view = new DataView(disk.device.config.buffer);
    t.equal(view.getBigUint64(abi.virtio_blk_config.capacity.offset, true), BigInt(SIZE / 512));
    t.equal(disk.read(8190, 1024).data[1023], 0x5a, 'its last sector');
    t.equal(disk.read(8191, 1024).status, abi.VIRTIO_BLK_S_IOERR, 'and none behind it');
    const data = new Uint8Array(4096).fill(engine === 'sync' ? 1 : 2);
    t.equal(disk.write(16, data).status, abi.VIRTIO_BLK_S_OK);
    t.equal(disk.request(abi.VIRTIO_BLK_T_FLUSH, 0).status, abi.VIRTIO_BLK_S_OK);
    t.equal(readFileSync(path)[16 * 512], data[0], 'a flushed write is on the medium');
    const blocks = statSync(path).blocks;
    t.equal(disk.discard(1024, 2048).status, abi.VIRTIO_BLK_S_OK);
    t.ok(statSync(path).blocks <= blocks - (engine === 'sync' ? 2048 : 0), 'discarded');
    for (const flags of [0, 1]) {
      const zeroed = disk.request(abi.VIRTIO_BLK_T_WRITE_ZEROES, 0, blkRange(16, 8, flags));
      t.equal(zeroed.status, abi.VIRTIO_BLK_S_OK);
      t.equal(Buffer.compare(disk.read(16, 4096).data, new Uint8Array(4096)), 0);
    }
    disk[Symbol.dispose]();
  });
}

t.test('a block device is locked like a file', { skip }, async (t) => {
  const options = { path: loop as string, readOnly: false, direct: false };
  const first = new RawFile(options);
  t.equal(first.geometry.blockDevice, true);
  t.throws(() => new RawFile(options), { name: 'UsageError', code: /E_DISK_(LOCKED|EBUSY)/ });
  first.close();
  new RawFile(options).close();
});
