/** The starter of a user-defined device: written, tested and type-checked. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { BUNDLE } from '../../support/rigs/host.ts';

const root = fileURLToPath(new URL('../../../../', import.meta.url));

// Below the package, as in a folder that it is installed in: `nodevmm/device` is found from here.
mkdirSync(path.join(root, 'dist'), { recursive: true });
const folder = mkdtempSync(path.join(root, 'dist/starter-'));
t.teardown(() => rmSync(folder, { recursive: true }));

function nodevmm(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  // The runner of these tests would take the output of Node's for its own.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const options = { cwd: folder, encoding: 'utf8', env } as const;
  return spawnSync(process.execPath, [BUNDLE, ...args], options);
}

t.test('device new writes the example under another name', async (t) => {
  const { status, stdout } = nodevmm('device', 'new', 'my-first-device');
  t.equal(status, 0);
  t.match(stdout, /my-first-device: see README\.md\n$/);
  const starter = path.join(folder, 'my-first-device');
  t.same(readdirSync(starter, { recursive: true, encoding: 'utf8' }).sort(), [
    'README.md',
    'device.test.ts',
    'device.ts',
    'driver',
    'driver/Kbuild',
    'driver/Makefile',
    'driver/my_first_device.c',
    'tsconfig.json',
  ]);
  for (const file of ['README.md', 'device.ts', 'driver/Kbuild', 'driver/my_first_device.c']) {
    const text = readFileSync(path.join(starter, file), 'utf8');
    t.notMatch(text, /virtio[-_]example/i, file);
    t.match(text, /my[-_]first[-_]device/, file);
  }
});

t.test('but for its name it is the example, letter for letter', async (t) => {
  const [starter, example] = [
    path.join(folder, 'my-first-device'),
    path.join(root, 'guests/example'),
  ];
  const nameBack = (text: string): string =>
    text
      .replaceAll('my-first-device', 'virtio-example')
      .replaceAll('my_first_device', 'virtio_example')
      .replaceAll('MY_FIRST_DEVICE', 'VIRTIO_EXAMPLE');
  for (const file of readdirSync(starter, { recursive: true, encoding: 'utf8' })) {
    if (file === 'driver') continue;
    const text = readFileSync(path.join(starter, file), 'utf8');
    t.equal(nameBack(text), readFileSync(path.join(example, nameBack(file)), 'utf8'), file);
  }
});

t.test('its tests pass as they were written, and its types are right', async (t) => {
  const { status, stdout } = nodevmm('device', 'test', 'my-first-device/device.test.ts');
  t.equal(status, 0, stdout);
  t.match(stdout, /^# pass 6$/m);
  const tsc = path.join(root, 'node_modules/typescript/bin/tsc');
  const checked = spawnSync(process.execPath, [tsc, '-p', path.join(folder, 'my-first-device')], {
    encoding: 'utf8',
  });
  t.equal(checked.stdout, '');
  t.equal(checked.status, 0);
});

t.test('a failing test is reported with its line in the source', async (t) => {
  const file = path.join(folder, 'my-first-device/failing.test.ts');
  writeFileSync(
    file,
    `import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestDriver } from 'nodevmm/testing';
import device from './device.ts';

test('fails', async () => {
  using driver = new TestDriver(device);
  const answer: Uint8Array = await driver.request('requestq', Buffer.from('a'), 1);
  assert.equal(Buffer.from(answer).toString(), 'b');
});
`,
  );
  const { status, stdout } = nodevmm('device', 'test', file);
  t.equal(status, 1);
  t.match(stdout, /failing\.test\.ts:9/);
});

t.test('what is there stays, and names have to fit', async (t) => {
  for (const [args, message] of [
    [['new', 'my-first-device'], /my-first-device already exists; use another name\n$/],
    [['new', 'My Device'], /My Device is not a device name; use .* such as my-device\n$/],
    [['new', 'a'.repeat(25)], /is not a device name/],
    [['test', 'nowhere.ts'], /no such test: nowhere\.ts\n$/],
  ] as const) {
    const { status, stderr } = nodevmm('device', ...args);
    t.equal(status, 2);
    t.match(stderr, message);
  }
});

t.test('device mount takes disks only', (t) => {
  const { status, stderr } = nodevmm(
    'device',
    'mount',
    path.join(root, 'docs/examples/counting.mjs'),
  );
  t.equal(status, 2);
  t.match(
    stderr,
    /^nodevmm: .*counting\.mjs is a device of type 4, which cannot be mounted; mount a disk, of type 2\n$/,
  );
  t.end();
});

t.test('the RPMB device of the driver in userland keeps its promises', async (t) => {
  const file = path.join(root, 'guests/userland-driver/rpmb.test.ts');
  const { status, stdout } = nodevmm('device', 'test', file);
  t.equal(status, 0, stdout);
  t.match(stdout, /^# pass 6$/m);
});
