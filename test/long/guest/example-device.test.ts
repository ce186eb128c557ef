/** The example device with its own Linux driver, from first contact to removal, in one boot. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { buildGuest } from '../../../src/guest/guests.ts';
import { withModules } from '../../../src/guest/own-modules.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { makeStarter } from '../../support/fixtures/guest-inputs.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { createGuest, guestShell } from '../../support/rigs/guest.ts';

const EXAMPLE = `${packageFolder}/guests/example/`;
const SOURCE = readFileSync(`${EXAMPLE}device.ts`, 'utf8');
/** A line of the device's, to be replaced. */
const ANSWER = 'const answer = rotate ? rot13(text) : capitals(text);';
/** What a device may do wrong, by the text that it is sent. */
const MISCHIEF = `
if (text === 'throw') throw new Error('on purpose');
if (text === 'reject') return Promise.reject(new Error('later'));
if (text === 'past') request.write(new Uint8Array(5000));
if (text === 'twice') globalThis.kept.write(Uint8Array.of(1));
if (text === 'never') return new Promise(() => {});
globalThis.kept = request;
const answer = text;`;
/** An entropy device, for a driver that knows no reset. */
const entropy = (byte: number): string => `
import { defineDevice } from 'nodevmm/device';
export default defineDevice({
  deviceId: 4,
  queues: { requestq: { handle: (r) => r.write(new Uint8Array(Math.min(r.writableLength, 8)).fill(${byte})) } },
});
`;
const DRIVER = '/sys/bus/virtio/drivers/virtio_example';

const folder = testFolder(t);
const files = ['main.ts', 'worker.ts'].map((name) => join(folder, name)) as [string, string];
for (const file of files) writeFileSync(file, SOURCE);
const rng = join(folder, 'rng.ts');
writeFileSync(rng, entropy(1));

t.test('virtio-example', async (t) => {
  const starter = makeStarter('my-device', folder);
  const drivers = [`${EXAMPLE}driver`, `${starter}/driver`];
  const { initrd } = await withModules(await buildGuest('minimal'), drivers);
  const [main, worker] = files;
  await using vm = await createGuest({
    machine: {
      initrd,
      rng: false,
      devices: [
        { module: main, watch: true },
        { module: worker, watch: true, thread: 'worker', ring: { packed: true } },
        { module: rng, watch: true },
        { module: `${starter}/device.ts` },
      ],
    },
  });
  const logs: string[] = [];
  let notify: () => void = () => {};
  vm.on('log', (text) => {
    logs.push(text);
    notify();
  });
  const logged = async (pattern: RegExp): Promise<string> => {
    for (;;) {
      const found = logs.find((text) => pattern.test(text));
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        notify = resolve;
      });
    }
  };
  /** Saves a device's file with another answer, and waits until it was looked at. */
  const save = async (file: string, answer: string): Promise<void> => {
    logs.length = 0;
    writeFileSync(file, file === rng ? answer : SOURCE.replace(ANSWER, answer));
    await logged(/runs .* as it was saved|keeps its old code/);
  };
  await vm.start();
  await vm.ready();
  const sh = (script: string) => guestShell(vm, script);
  const say = (text: string, device = 'virtio-example') =>
    sh(`printf %s '${text}' >/dev/${device}; cat /dev/${device}`);
  const attribute = (name: string, device = 'virtio-example') =>
    sh(`cat /sys/class/misc/${device}/${name}`);

  await t.test('its driver is there before anybody asks', async (t) => {
    const bound = await sh(`ls -d ${DRIVER}/virtio*; ls /dev/virtio-example*`);
    t.equal(bound.split('\n').length, 4);
  });

  for (const device of ['virtio-example', 'virtio-example1']) {
    await t.test(`${device}: a text goes there, its answer comes back`, async (t) => {
      t.equal(await say('Hello, virtio 1.3', device), 'HELLO, VIRTIO 1.3');
      t.equal(await attribute('max_length', device), '4096');
      t.equal(await attribute('served', device), '1');
      await sh(`echo 1 >/sys/class/misc/${device}/mode`);
      t.equal(await say('Hello', device), 'Uryyb');
      t.equal(await attribute('served', device), '2');
      await sh(`echo 0 >/sys/class/misc/${device}/mode`);
      const long = await sh(
        `head -c 4096 /dev/zero | tr '\\0' a >/dev/${device}; cat /dev/${device} | tr -d A | wc -c;
        ! dd if=/dev/zero of=/dev/${device} bs=4097 count=1 2>/dev/null`,
      );
      t.equal(long, '0');
    });
  }

  await t.test('a starter works as it was written', async (t) => {
    t.equal(await say('Hello', 'my-device'), 'HELLO');
    t.equal(await attribute('served', 'my-device'), '1');
  });

  await t.test('a changed configuration interrupts the driver', async (t) => {
    const interrupts = () =>
      sh(
        "grep -c . /proc/interrupts >/dev/null; awk '/virtio[0-9]+-config/ { n += $2 } END { print n }' /proc/interrupts",
      );
    const before = Number(await interrupts());
    await say('one');
    t.ok(Number(await interrupts()) > before);
  });

  for (const [file, device, name] of [
    [main, 'virtio-example', 'own0'],
    [worker, 'virtio-example1', 'own1'],
  ] as const) {
    await t.test(`${device}: a saved file is taken up, and the driver comes back`, async (t) => {
      await save(file, "const answer = ('<' + capitals(text)).slice(0, text.length);");
      t.match(logs, [new RegExp(`^${name}: runs .* as it was saved$`)]);
      await sh(`until [ $(cat /sys/class/misc/${device}/resets) = 1 ]; do sleep 0.1; done`);
      t.equal(await say('hello', device), '<HELL');
      await save(file, 'const answer = ((;');
      t.match(logs.join(), /keeps its old code: the device cannot be compiled: .*\.ts:\d+: /);
      t.equal(await say('again', device), '<AGAI');
      await save(file, MISCHIEF);
      const resets = `/sys/class/misc/${device}/resets`;
      const counted = await sh(`until [ $(cat ${resets}) = 2 ]; do sleep 0.1; done
        for text in throw reject past twice; do
          ! printf $text | dd of=/dev/${device} 2>/dev/null
          printf ok >/dev/${device}; cat /dev/${device}; echo " $(cat ${resets})"
        done`);
      t.equal(counted, 'ok 3\nok 4\nok 5\nok 6', 'each breaks the device, which comes back');
      const stops = logs.filter((text) => text.includes('stopped'));
      for (const reason of [/on purpose/, /later/, /room for 4/, /answered already/]) {
        t.match(stops.shift(), new RegExp(`${reason.source}.*(main|worker)\\.ts:\\d+\\)$`));
      }
      await sh(`timeout 1 sh -c 'printf never >/dev/${device}' || true`);
      await save(file, 'const answer = text;');
      t.equal(await say('alive', device), 'alive', 'one that never answers is replaced');
    });
  }

  await t.test(
    'under a driver that does not reset, the queues continue where they were',
    async (t) => {
      const reads = (byte: number) =>
        sh(`until [ -e /dev/hwrng ]; do sleep 0.1; done
        until [ $(timeout 200 head -c 8 /dev/hwrng | od -An -tu1 | tr -d ' ') = ${`${byte}`.repeat(8)} ]; do :; done`);
      await sh('modprobe virtio-rng');
      await reads(1);
      await save(rng, entropy(2));
      await reads(2);
      t.pass();
    },
  );

  await t.test('a driver leaves and comes back', async (t) => {
    await sh(`for d in ${DRIVER}/virtio*; do
        id=\${d##*/}; echo $id >${DRIVER}/unbind; [ ! -e ${DRIVER}/$id ]; echo $id >${DRIVER}/bind
      done`);
    t.equal(await say('bound'), 'bound');
    await sh('rmmod virtio_example; [ ! -e /dev/virtio-example ]; modprobe virtio_example');
    t.equal(await say('again'), 'again');
    t.equal(await sh("dmesg | grep -E 'WARNING: CPU|BUG:|Oops|Call Trace' || true"), '');
  });
});
