/** The block device where it runs: in a queue worker, kicked and answered through eventfds. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { QueueWorkerDatapath } from '../../../../src/datapath/queue-worker.ts';
import { Eventfd } from '../../../../src/host/fd.ts';
import { NativeMemory } from '../../../../src/host/native-memory.ts';
import { poll } from '../../../../src/host/syscall.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue, GuestHeap } from '../../../../src/testing/index.ts';
import { createBlkDevice } from '../../../../src/virtio/device/blk/blk.ts';
import { blkHeader, blkResult, TemporaryFolder } from '../../../support/rigs/blk-driver.ts';

const POLLIN = 1;
const DEADLINE_MS = 10_000;
const REQUESTS = 200;

for (const engine of ['sync', 'io_uring'] as const) {
  t.test(`requests from many rounds reach the file (${engine})`, async (t) => {
    const folder = new TemporaryFolder();
    const path = folder.file('disk', REQUESTS * 512);
    const device = createBlkDevice({ name: 'blk0', path, engine });
    const { thread } = device;
    if (thread.kind !== 'worker') throw new Error('the block device has no worker');
    const ram = new Ram(16 * MiB);
    const [kick, call] = [new Eventfd(), new Eventfd()];
    const features = device.features | featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX);
    const options = { size: 64, features, kickFd: kick.fd, callFd: call.fd };
    const driver = createDriverQueue(new GuestHeap(ram.memory, MiB, 16 * MiB), options);
    const reports: unknown[] = [];
    const datapath = new QueueWorkerDatapath(
      { name: 'blk0', module: thread.module, options: thread.options },
      {
        broken: (reason) => reports.push(reason),
        log: (text) => reports.push(text),
        message: (message) => reports.push(message),
      },
    );
    await datapath.start({ memory: ram.memory.share, features, queues: [driver.config] });
    const waiting = new NativeMemory(8);
    waiting.view.setInt32(0, call.fd, true);
    waiting.view.setInt16(4, POLLIN, true);
    const statuses = new Set<number>();
    let sent = 0;
    let answered = 0;
    while (answered < REQUESTS) {
      while (sent < REQUESTS && driver.free >= 3) {
        const data = new Uint8Array(512).fill(sent + 1);
        const header = blkHeader(abi.VIRTIO_BLK_T_OUT, sent);
        driver.add({ readable: [header, data], writable: [1] });
        sent++;
      }
      if (driver.kick()) kick.signal();
      const done = driver.completed();
      for (const buffer of done) statuses.add(blkResult(buffer).status);
      answered += done.length;
      if (done.length > 0 || answered === REQUESTS) continue;
      if (poll(waiting.address, 1, DEADLINE_MS) === 0) break;
      call.drain();
    }
    t.equal(answered, REQUESTS);
    t.same([...statuses], [abi.VIRTIO_BLK_S_OK]);
    const states = await datapath.stop();
    t.same(states.get(0), { nextAvail: REQUESTS, nextUsed: REQUESTS });
    await datapath.close();
    t.same(reports, []);
    const file = readFileSync(path);
    for (let i = 0; i < REQUESTS; i++) {
      if (file[i * 512] !== ((i + 1) & 0xff) || file[i * 512 + 511] !== ((i + 1) & 0xff)) {
        t.fail(`sector ${i} was not written`);
      }
    }
    device.close();
    ram[Symbol.dispose]();
    kick.close();
    call.close();
    folder[Symbol.dispose]();
  });
}
