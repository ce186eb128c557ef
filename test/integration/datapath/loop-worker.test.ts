/** A queue worker whose handler waits for promises and timers. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { QueueWorkerDatapath } from '../../../src/datapath/queue-worker.ts';
import { Eventfd, isReadable } from '../../../src/host/fd.ts';
import { loadDevice } from '../../../src/machine/user-devices/load-device.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const file = join(folder, 'slow.ts');
writeFileSync(
  file,
  `import { setTimeout } from 'node:timers/promises';
import { defineDevice } from 'nodevmm/device';

export default defineDevice({
  deviceId: 42,
  config: { count: { bytes: 4 } },
  queues: {
    requests: {
      async handle(request, device) {
        await setTimeout(1);
        const text = Buffer.from(request.read()).toString();
        if (text === 'fail') throw new Error('on purpose');
        request.write(Buffer.from(text + device.getConfig('count')));
        device.setConfig('count', device.getConfig('count') + 1);
      },
    },
  },
  start() {
    setInterval(() => {}, 1000);
  },
});
`,
);

t.test(
  'answers come when they are ready, and a timer of its own does not hold the thread',
  async (t) => {
    using rig = new DatapathRig();
    using loaded = await loadDevice(file);
    const spec = { name: 'slow', module: loaded.url, options: { options: {} } };
    const datapath = new QueueWorkerDatapath(spec, rig.events);
    const [kick, call] = [rig.kicks[0], new Eventfd()];
    const features = 1n << 32n;
    const heap = new GuestHeap(rig.ram.memory, 0x8_0000, 0x10_0000);
    const driver = createDriverQueue(heap, {
      size: 16,
      features,
      kickFd: kick.fd,
      callFd: call.fd,
    });
    const activation = {
      memory: rig.ram.memory.share,
      features,
      config: Uint8Array.of(7, 0, 0, 0),
      queues: [driver.config],
    };
    await datapath.start(activation);
    const ask = (text: string): void => {
      driver.add({ readable: [Buffer.from(text)], writable: [20] });
      kick.signal();
    };
    ask('a');
    await rig.next(({ kind }) => kind === 'message');
    while (!isReadable(call.fd)) await new Promise((turn) => setImmediate(turn));
    t.same(
      driver.completed().map(({ data }) => Buffer.from(data).toString()),
      ['a7'],
      'it knows the configuration space',
    );
    ask('fail');
    const report = await rig.next(({ kind }) => kind === 'broken');
    t.match(report, { reason: /on purpose \(.*slow\.ts:12\)$/ });
    const states = await datapath.stop([0]);
    t.same(states.get(0), { nextAvail: 1, nextUsed: 1 }, 'what failed is given back');
    await datapath.close();
    call.close();
  },
);
