/** The example device with its own Linux driver, from first contact to removal, in one boot. */
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { withModules } from '../../src/guest/guest-modules.ts';
import { buildGuest } from '../../src/guest/guests.ts';
import { bootGuest } from '../support/guest.ts';
import { guestShell } from '../support/guest-shell.ts';

const EXAMPLE = fileURLToPath(new URL('../../../guests/example/', import.meta.url));

t.test('virtio-example', async (t) => {
  const { initrd } = await withModules(await buildGuest('minimal'), [`${EXAMPLE}driver`]);
  await using vm = await bootGuest({
    machine: { initrd, devices: [{ module: `${EXAMPLE}device.ts` }] },
  });
  const sh = (script: string) => guestShell(vm, script);
  const say = (text: string) =>
    sh(`printf %s '${text}' >/dev/virtio-example; cat /dev/virtio-example`);

  await t.test('its driver is there before anybody asks', async (t) => {
    t.equal(
      await sh('cd /sys/class/misc/virtio-example/device; basename $(readlink driver)'),
      'virtio_example',
    );
  });

  await t.test('a text goes there, its answer comes back', async (t) => {
    t.equal(await say('Hello, virtio 1.3'), 'HELLO, VIRTIO 1.3');
  });
});
