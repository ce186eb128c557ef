/** A server that continues for a killed one: from the record of what was in flight, in both formats of rings. */
import { readdirSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { VIRTIO_BLK_F_SEG_MAX } from '../../../src/abi/virtio-blk.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { until } from '../../support/fakes/machine.ts';
import { FakeVduse } from '../../support/fakes/vduse.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { DiskServer, DRIVER_OK, VduseDriver } from '../../support/rigs/vduse-server.ts';

const folder = testFolder(t);

for (const packed of [false, true]) {
  t.test(
    `what was in flight is served again, and only that (${packed ? 'packed' : 'split'})`,
    async (t) => {
      using driver = new VduseDriver(packed);
      const { kernel } = driver;
      const killed = new DiskServer(kernel, folder);
      t.equal(killed.backend.resumed, false);
      await kernel.status(DRIVER_OK);
      kernel.driverOk = true;
      kernel.bound = true;
      driver.send(1, 2, 3);
      await until(() => killed.waiting.size === 3);
      killed.waiting.get(2)?.();
      await until(() => driver.answers().includes(2));

      // It is not killed, but gets no kicks from here on, and answers nothing.
      const before = kernel.interrupts.length;
      const next = new DiskServer(kernel, folder);
      t.equal(next.backend.resumed, true);
      await until(() => next.waiting.size === 2);
      t.same([...next.waiting.keys()], [1, 3], 'the oldest first');
      t.ok(kernel.interrupts.length > before, 'the driver may have been left without an interrupt');
      t.match(next.log, [/continues for a server that was killed/]);
      driver.send(4);
      await until(() => next.waiting.size === 3);
      const done: (number | undefined)[] = [];
      for (const number of [4, 1, 3]) {
        next.waiting.get(number)?.();
        await until(() => {
          done.push(...driver.answers());
          return done.includes(number);
        });
      }
      t.same(done, [4, 1, 3], 'each once');
      kernel.bound = false;
      await next[Symbol.asyncDispose]();
      t.same(readdirSync(folder), [], 'the record is gone with the device');
      killed.waiting.clear();
      await killed[Symbol.asyncDispose]();
    },
  );
}

t.test('before DRIVER_OK there is nothing to continue', async (t) => {
  const kernel = new FakeVduse();
  await using _killed = new DiskServer(kernel, folder);
  kernel.bound = true;
  await using next = new DiskServer(kernel, folder);
  t.match(await kernel.status(1), { ok: true });
  t.same(next.log, []);
  kernel.bound = false;
  kernel.close();
});

t.test('what cannot be continued', async (t) => {
  const kernel = new FakeVduse();
  await using _killed = new DiskServer(kernel, folder);
  kernel.bound = true;
  const refused = (message: RegExp, options = {}): void => {
    t.throws(() => new DiskServer(kernel, folder, options), { code: 'E_VDUSE', message });
  };
  kernel.served = true;
  refused(/another process serves the VDUSE device disk0/);
  kernel.served = false;
  kernel.negotiated = featureSet(VIRTIO_BLK_F_SEG_MAX);
  refused(/uses features that the device does not have \(0x4\)/);
  kernel.negotiated = 0n;
  refused(/with another type or other queues/, { size: 32 });
  refused(/was not served by this user: cannot open .*vduse-disk1 \(ENOENT\)/, { name: 'disk1' });
  truncateSync(join(folder, 'vduse-disk0'), 100);
  refused(/with another type or other queues/);
  kernel.givenUp = true;
  refused(/given the VDUSE device disk0 up/);
  kernel.givenUp = false;
  kernel.bound = false;
  kernel.close();
});
