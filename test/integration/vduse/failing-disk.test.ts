/** A disk that broke: its requests fail instead of waiting forever, until the driver resets it. */
import t from 'tap';
import { VIRTIO_BLK_S_IOERR } from '../../../src/abi/virtio-blk.ts';
import { until } from '../../support/fakes/machine.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { DiskServer, DRIVER_OK, VduseDriver } from '../../support/rigs/vduse-server.ts';

const folder = testFolder(t);

for (const packed of [false, true]) {
  t.test(packed ? 'packed rings' : 'split rings', async (t) => {
    using driver = new VduseDriver(packed);
    const { kernel } = driver;
    await using server = new DiskServer(kernel, folder);
    await kernel.status(DRIVER_OK);
    const done: (number | undefined)[] = [];
    const answered = (count: number): Promise<void> =>
      until(() => {
        done.push(...driver.answers());
        return done.length === count;
      });
    driver.send(5, 6, 7);
    await until(() => server.waiting.size === 3);
    server.waiting.get(6)?.();
    await answered(1);
    server.waiting.get(7)?.(new Error('oops'));
    await answered(3);
    driver.send(8);
    await answered(4);
    t.same(done.splice(0), [6, ...Array(3).fill(VIRTIO_BLK_S_IOERR)]);
    t.match(server.log, [/^disk: stopped: its code failed: .*oops/]);
    server.waiting.clear();
    t.match(await kernel.status(0), { ok: true });
  });

  t.test(
    `on demand, without an answer from its code (${packed ? 'packed' : 'split'})`,
    async (t) => {
      using driver = new VduseDriver(packed);
      const { kernel } = driver;
      await using server = new DiskServer(kernel, folder);
      await kernel.status(DRIVER_OK);
      driver.send(5, 6);
      await until(() => server.waiting.size === 2);
      server.backend.fail('it is to end');
      const done: (number | undefined)[] = [];
      await until(() => {
        done.push(...driver.answers());
        return done.length === 2;
      });
      t.same(done, [VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR]);
      server.waiting.clear();
    },
  );
}
