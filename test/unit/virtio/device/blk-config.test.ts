/** The block device's control half: configuration, cache mode, options (virtio 1.3 §5.2.4, §5.2.5). */
import { statSync, truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-blk.ts';
import { createBlkDevice, isResizableDisk } from '../../../../src/virtio/device/blk/blk.ts';
import { blkType } from '../../../../src/virtio/device/blk/blk-type.ts';
import { checkBackendOptions } from '../../../support/rigs/backend-options.ts';
import { BlkDriver, TemporaryFolder } from '../../../support/rigs/blk-driver.ts';

const folder = new TemporaryFolder();
t.teardown(() => folder[Symbol.dispose]());
let files = 0;

t.test('§5.2.5 the configuration describes the disk', async (t) => {
  const path = folder.file(`disk${files++}`, 1024 * 1024);
  const device = createBlkDevice({ name: 'blk0', path, queues: 3, queueSize: 128 });
  const view = new DataView(device.config.buffer);
  const layout = abi.virtio_blk_config;
  t.equal(layout.size, 60);
  t.equal(view.getBigUint64(layout.capacity.offset, true), 2048n);
  t.equal(view.getUint32(layout.seg_max.offset, true), 126);
  t.equal(view.getUint32(layout.blk_size.offset, true), 512);
  t.equal(view.getUint8(layout.writeback.offset), 1);
  t.equal(view.getUint16(layout.num_queues.offset, true), 3);
  t.equal(device.queues.length, 3);
  t.same([device.deviceId, device.pciClass], [2, 0x010000]);
  const writable = [...(device.configWriteMask ?? [])].flatMap((mask, i) => (mask ? [i] : []));
  t.same(writable, [layout.writeback.offset], 'only writeback can be written');
  device.close();
});

t.test('§5.2.4 blk_size is as requested, and the topology matches', async (t) => {
  const path = folder.file(`disk${files++}`, 16384);
  const layout = abi.virtio_blk_config;
  for (const blockSize of [512, 1024, 4096]) {
    const device = createBlkDevice({ name: 'blk0', path, blockSize });
    const view = new DataView(device.config.buffer);
    t.equal(view.getUint32(layout.blk_size.offset, true), blockSize);
    t.equal(view.getBigUint64(layout.capacity.offset, true), 32n, 'in sectors of 512 bytes');
    const physical = blockSize << view.getUint8(layout.physical_block_exp.offset);
    t.ok(physical >= blockSize && physical <= 4096);
    t.equal(view.getUint16(layout.min_io_size.offset, true) * blockSize, physical);
    device.close();
  }
  t.throws(() => createBlkDevice({ name: 'blk0', path, blockSize: 600 }), {
    code: 'E_DISK_BLOCK_SIZE',
  });
  createBlkDevice({ name: 'blk0', path }).close();
});

t.test('a read-only file is filled up to a block with zeroes', async (t) => {
  const content = new Uint8Array(5000).fill(7);
  const path = folder.file(`disk${files++}`, content);
  using disk = new BlkDriver(path, { readOnly: true, blockSize: 4096 });
  const { status, data } = disk.read(0, 8192);
  t.equal(status, abi.VIRTIO_BLK_S_OK);
  t.same([data[4999], data[5000], data[8191]], [7, 0, 0]);
});

t.test('§5.2.5 the driver toggles the cache through writeback', async (t) => {
  const path = folder.file(`disk${files++}`, 4096);
  const device = createBlkDevice({ name: 'blk0', path });
  const options = 'options' in device.thread ? device.thread.options : {};
  const shared = new Int32Array((options as { writeback: SharedArrayBuffer }).writeback);
  const at = abi.virtio_blk_config.writeback.offset;
  const config = device.config.slice();
  const posted: unknown[] = [];
  device.attach?.({
    updateConfig: (change) => change(new DataView(config.buffer)),
    readConfig: () => config,
    post: (message) => posted.push(message),
  });
  t.same([config[at], shared[0]], [1, 1], 'writeback at first');
  for (const [value, mode, flushes] of [
    [0, 0, 1],
    [0, 0, 1],
    [1, 1, 1],
    [0, 0, 2],
    [77, 1, 2],
  ] as const) {
    config[at] = value;
    device.configWritten?.(at, 1);
    t.same([shared[0], posted.length], [mode, flushes], `after ${value}`);
  }
  config[at] = 0;
  device.configWritten?.(at, 1);
  device.reset?.();
  t.same([config[at], shared[0]], [1, 1], 'writeback after a reset');
  device.close();
});

t.test('§5.2.5 a disk that grows has its new capacity, and takes requests there', async (t) => {
  const layout = abi.virtio_blk_config;
  const path = folder.file(`disk${files++}`, 4096);
  using disk = new BlkDriver(path);
  const { device } = disk;
  if (!isResizableDisk(device)) throw new Error('a disk of this process');
  const capacities: bigint[] = [];
  const config = device.config.slice();
  device.attach?.({
    updateConfig: (change) => {
      change(new DataView(config.buffer));
      capacities.push(new DataView(config.buffer).getBigUint64(layout.capacity.offset, true));
      const { status } = disk.write(capacities.length * 8, new Uint8Array(512));
      t.equal(status, abi.VIRTIO_BLK_S_OK, 'the data half knows before the driver');
    },
    readConfig: () => config,
    post: () => {},
  });
  t.equal(disk.write(8, new Uint8Array(512)).status, abi.VIRTIO_BLK_S_IOERR);
  device.resize(8192);
  t.equal(statSync(path).size, 8192, 'its file grew');
  t.equal(disk.write(16, new Uint8Array(512)).status, abi.VIRTIO_BLK_S_IOERR, 'past the new end');
  device.resize(8192);
  device.resize();
  t.same(capacities, [16n], 'no notification without a change');
  truncateSync(path, 12_288);
  device.resize();
  t.same(capacities, [16n, 24n], 'a file that grew elsewhere');
  for (const [bytes, pattern] of [
    [4096, /^disk .*: 4096 bytes are fewer than the 12288 that the guest has/],
    [12_800 + 1, /12801 bytes are not a whole number of blocks of 512$/],
    [2 ** 60, /not a whole number/],
  ] as const) {
    t.throws(() => device.resize(bytes), { code: 'E_DISK_RESIZE', message: pattern });
  }
  truncateSync(path, 16_384);
  t.throws(() => device.resize(14_336), { code: 'E_DISK_RESIZE', message: /16384 .* not cut/ });
  truncateSync(path, 8192);
  t.throws(() => device.resize(), { code: 'E_DISK_RESIZE', message: /cannot shrink/ });
  t.throws(() => device.resize(16_384), { code: 'E_DISK_RESIZE' }, 'nor by a detour');
  t.equal(statSync(path).size, 8192);
  t.equal(capacities.length, 2);
});

t.test('a read-only disk grows with its file, and only so', async (t) => {
  const path = folder.file(`disk${files++}`, new Uint8Array(1000).fill(1));
  using disk = new BlkDriver(path, { readOnly: true });
  const { device } = disk;
  if (!isResizableDisk(device)) throw new Error('a disk of this process');
  t.throws(() => device.resize(4096), { code: 'E_DISK_RESIZE', message: /read-only/ });
  writeFileSync(path, new Uint8Array(2000).fill(2));
  device.resize();
  const at = abi.virtio_blk_config.capacity.offset;
  t.equal(new DataView(device.config.buffer).getBigUint64(at, true), 4n);
  const { status, data } = disk.read(2, 1024);
  t.equal(status, abi.VIRTIO_BLK_S_OK);
  t.same([data[975], data[976], data[1023]], [2, 0, 0], 'the last sector is filled up again');
});

t.test('a closed device leaves no lock behind, whichever its engine', async (t) => {
  for (const engine of ['sync', 'io_uring'] as const) {
    const path = folder.file(`disk${files++}`, 4096);
    const disk = new BlkDriver(path, { engine });
    disk.write(0, new Uint8Array(512));
    disk[Symbol.dispose]();
    t.doesNotThrow(() => createBlkDevice({ name: 'blk0', path, engine }).close());
  }
});

t.test('options that cannot be are refused', async (t) => {
  for (const [options, code] of [
    [{ queues: 0 }, 'E_DISK_QUEUES'],
    [{ queues: 17 }, 'E_DISK_QUEUES'],
    [{ queues: 1.5 }, 'E_DISK_QUEUES'],
    [{ serial: 'x'.repeat(21) }, 'E_DISK_SERIAL'],
    [{ serial: 'ä' }, 'E_DISK_SERIAL'],
  ] as const) {
    const given = { path: '/d', ...options };
    t.throws(() => checkBackendOptions(blkType, 'file', given), { name: 'UsageError', code });
  }
});
