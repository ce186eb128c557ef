/** Devices from files that people wrote. */
import { existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { createDevice } from '../../../src/machine/devices/machine-devices.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';
import { DeviceCode } from '../../../src/machine/user-devices/device-code.ts';
import { loadDevice } from '../../../src/machine/user-devices/load-device.ts';
import type { OwnDeviceOptions } from '../../../src/machine/user-devices/user-devices.ts';
import { DeviceRig } from '../../../src/testing/device-rig.ts';
import type { QueueHandler, VirtioDevice } from '../../../src/virtio/device.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);

let files = 0;
function file(text: string, extension = 'ts'): string {
  const path = join(folder, `device${files++}.${extension}`);
  writeFileSync(path, text);
  return path;
}

const GREETER = `
import { defineDevice, type DeviceRequest } from 'nodevmm/device';
import { greet } from './greet.ts';
export default defineDevice((options: Readonly<Record<string, string>>) => ({
  deviceId: 42,
  queues: {
    requests: {
      handle(request: DeviceRequest): void {
        request.write(Buffer.from(greet(options.name ?? 'nobody')));
      },
    },
  },
}));
`;
writeFileSync(join(folder, 'greet.ts'), "export const greet = (s: string): string => 'hi ' + s;\n");

function ask(handler: QueueHandler): string {
  using rig = new DeviceRig();
  rig.start(handler, 1n << 32n, [16]);
  rig.queue(0).add({ writable: [20] });
  rig.notify(0);
  return Buffer.from(rig.queue(0).completed()[0]?.data ?? []).toString();
}

async function createUserDevice(device: OwnDeviceOptions): Promise<VirtioDevice> {
  const [asked] = resolveOptions({ kernel: '/k', rng: false, devices: [device] }).devices;
  const made = asked && (await createDevice(asked));
  if (!(made instanceof DeviceCode)) throw new Error('no device');
  return made.device;
}

t.test('TypeScript with imports, on the main thread and for a worker', async (t) => {
  const module = file(GREETER);
  const made = await createUserDevice({ module, options: { name: 'you' } });
  const handler = made.createHandler?.();
  t.equal(handler === undefined ? '' : ask(handler), 'hi you');
  made.close();

  const there = await createUserDevice({ module, options: { name: 'me' }, thread: 'worker' });
  const { thread } = there;
  if (thread.kind !== 'worker') throw new Error('not in a worker');
  const { createHandler } = (await import(thread.module)) as {
    createHandler: (options: unknown) => QueueHandler;
  };
  t.equal(ask(createHandler(thread.options)), 'hi me');
  const compiled = dirname(fileURLToPath(thread.module));
  t.ok(existsSync(compiled));
  there.close();
  t.notOk(existsSync(compiled), 'nothing stays');
});

t.test('JavaScript', async (t) => {
  using loaded = await loadDevice(
    file(
      `import { defineDevice } from 'nodevmm/device';
       export default defineDevice({ deviceId: 7, queues: { a: { handle() {} } } });`,
      'js',
    ),
  );
  t.equal(loaded.define({}).deviceId, 7);
});

t.test('a module that cannot be loaded fails with one line', async (t) => {
  const cases: [string, RegExp][] = [
    [join(folder, 'missing.ts'), /no device file .*missing\.ts; use/],
    [file('export default 5 +;'), /cannot be compiled: .*device\d+\.ts:1: /],
    [file('export const x = 1;'), /No matching export|exports no device/],
    [file('export default 5;'), /exports no device/],
    [file('throw new Error("on my way");'), /on my way|No matching export/],
    [
      file(`import { defineDevice } from 'nodevmm/device';
            export default defineDevice({ deviceId: 99, queues: {} });`),
      /deviceId 99/,
    ],
    [file('import x from "./nowhere.ts"; export default x;'), /nowhere/],
  ];
  for (const [module, message] of cases) {
    const creating = createUserDevice({ module });
    await t.rejects(creating, { name: 'UsageError', message }, String(message));
  }
});
