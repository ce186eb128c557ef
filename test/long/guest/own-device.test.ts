/** A user-defined device, with Linux's own driver. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { OwnDeviceOptions } from '../../../src/index.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest, createGuest, guestShell } from '../../support/rigs/guest.ts';

const folder = testFolder(t);
const module = join(folder, 'counting.ts');
writeFileSync(
  module,
  `import { defineDevice } from 'nodevmm/device';

export default defineDevice(({ step = '1', failAfter = '1e9' }: Record<string, string>) => {
  let next = 0;
  return {
    deviceId: 4,
    queues: {
      requestq: {
        handle(request) {
          if (next > Number(failAfter)) throw new Error('counted too far');
          const bytes = new Uint8Array(Math.min(request.writableLength, 8));
          for (let i = 0; i < bytes.length; i++) bytes[i] = next += Number(step);
          request.write(bytes);
        },
      },
    },
  };
});
`,
);

const READY = 'modprobe virtio-rng; until [ -e /dev/hwrng ]; do sleep 0.1; done';
const READ = `${READY}; timeout 200 head -c 8 /dev/hwrng | od -An -tu1`;
const boot = (device: OwnDeviceOptions) =>
  bootGuest({ machine: { rng: false, devices: [device] } });

for (const thread of ['main', 'worker'] as const) {
  t.test(`served in thread ${thread}, packed`, async (t) => {
    const ring = { packed: thread === 'worker' };
    await using vm = await boot({ module, options: { step: '2' }, thread, ring });
    const bytes = (await guestShell(vm, READ)).trim().split(/\s+/).map(Number);
    t.equal(bytes.length, 8);
    t.same(
      bytes.map((byte) => (byte - (bytes[0] ?? 0)) & 0xff),
      [0, 2, 4, 6, 8, 10, 12, 14],
      bytes.join(' '),
    );
  });
}

t.test('one whose code throws breaks, and the guest continues', async (t) => {
  const logs: string[] = [];
  const devices = [{ module, options: { failAfter: '1' } }];
  await using vm = await createGuest({ machine: { rng: false, devices } });
  vm.on('log', (text) => logs.push(text));
  await vm.start();
  await vm.ready();
  await vm.exec(['sh', '-c', `${READY}; timeout 2 head -c 4096 /dev/hwrng >/dev/null`]);
  t.match(logs.join('\n'), /own0: stopped: .*counted too far \(.*counting\.ts:10\)/);
  t.equal(await guestShell(vm, 'echo alive'), 'alive');
});
