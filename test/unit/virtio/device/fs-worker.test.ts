/** The file system device where it runs: in a queue worker, which keeps the guest's nodes. */
import { statSync } from 'node:fs';
import t from 'tap';
import { O_RDWR } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../../src/abi/virtio-ring.ts';
import { QueueWorkerDatapath } from '../../../../src/datapath/queue-worker.ts';
import { Eventfd } from '../../../../src/host/fd.ts';
import { NativeMemory } from '../../../../src/host/native-memory.ts';
import { poll } from '../../../../src/host/syscall.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue, GuestHeap } from '../../../../src/testing/index.ts';
import { createFsDevice } from '../../../../src/virtio/device/fs/fs.ts';
import {
  createdHandle,
  type FuseResult,
  join,
  openDescriptors,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const POLLIN = 1;
const DEADLINE_MS = 10_000;

t.test('files in the caller’s name; a pause loses nothing, the end leaves nothing', async (t) => {
  using folder = new SharedFolder();
  const before = openDescriptors();
  const device = createFsDevice({ name: 'fs0', tag: 't', source: folder.path });
  const { thread } = device;
  if (thread.kind !== 'worker') throw new Error('the file system device has no worker');
  const ram = new Ram(16 * MiB);
  const [kick, call] = [new Eventfd(), new Eventfd()];
  const features = featureSet(VIRTIO_F_VERSION_1);
  const options = { index: 1, size: 64, features, kickFd: kick.fd, callFd: call.fd };
  const driver = createDriverQueue(new GuestHeap(ram.memory, MiB, 16 * MiB), options);
  const reports: unknown[] = [];
  const datapath = new QueueWorkerDatapath(
    { name: 'fs0', module: thread.module, options: thread.options },
    {
      broken: (reason) => reports.push(reason),
      log: (line) => reports.push(line),
      message: (message) => reports.push(message),
    },
  );
  const waiting = new NativeMemory(8);
  waiting.view.setInt32(0, call.fd, true);
  waiting.view.setInt16(4, POLLIN, true);
  const request = (opcode: number, body: Uint8Array, room: number, uid = 0): FuseResult => {
    const nodeid = fuse.FUSE_ROOT_ID;
    const len = fuse.fuse_in_header.size + body.length;
    const header = pack(fuse.fuse_in_header, { len, opcode, nodeid, uid, gid: uid });
    driver.add({ readable: [header, body], writable: [16 + room] });
    if (driver.kick()) kick.signal();
    for (;;) {
      const [done] = driver.completed();
      if (done !== undefined) {
        const data = new DataView(done.data.buffer, done.data.byteOffset + 16, done.written - 16);
        const error = -new DataView(done.data.buffer, done.data.byteOffset).getInt32(4, true);
        return { error, data, bytes: done.data.subarray(16), written: done.written };
      }
      if (poll(waiting.address, 1, DEADLINE_MS) === 0) throw new Error('no answer');
      call.drain();
    }
  };
  const start = { memory: ram.memory.share, features };
  await datapath.start({ ...start, queues: [driver.config] });
  const init = pack(fuse.fuse_init_in, { major: 7, minor: 38 });
  t.equal(request(fuse.FUSE_INIT, init, fuse.fuse_init_out.size).error, 0);
  const create = join(pack(fuse.fuse_create_in, { flags: O_RDWR, mode: 0o666 }), text('made'));
  const made = request(fuse.FUSE_CREATE, create, 200, 77);
  const stats = statSync(folder.at('made'));
  t.equal(stats.mode & 0o777, 0o666);
  t.equal(stats.uid, process.getuid?.() === 0 ? 77 : process.getuid?.());
  const states = await datapath.stop([1]);
  const state = states.get(1);
  if (state === undefined) throw new Error('the queue has no state');
  await datapath.start({ ...start, queues: [{ ...driver.config, state }] });
  const head = pack(fuse.fuse_write_in, { fh: createdHandle(made), size_: 2 });
  t.equal(request(fuse.FUSE_WRITE, join(head, Buffer.from('xy')), 8).error, 0);
  t.equal(statSync(folder.at('made')).size, 2);
  await datapath.close();
  device.close();
  t.same(reports, []);
  ram[Symbol.dispose]();
  kick.close();
  call.close();
  t.ok(openDescriptors() <= before, 'every descriptor is given back');
});
