/** What `npm install nodevmm` brings, and that it works without install scripts and a compiler. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { PackageUser } from '../support/rigs/installed-package.ts';

const { project, packed } = await PackageUser.install();
t.teardown(() => project.close());

t.test('holds what runs and what explains it, below 2.5 MB', async (t) => {
  t.ok(packed.unpackedSize < 2_500_000, `${packed.unpackedSize} bytes`);
  t.same(
    packed.paths.filter((path) => /\.map$|^dist\/src\/|^test\/|^docs\/reference/.test(path)),
    [],
    'the reference says what the types do',
  );
  for (const path of ['docs/architecture.md', 'CHANGELOG.md', 'dist/bundle/LICENSES', 'LICENSE']) {
    t.ok(packed.paths.includes(path), path);
  }
  const licenses = readFileSync('dist/bundle/LICENSES', 'utf8');
  t.match(licenses, /^commander \d/m);
  t.match(licenses, /^valibot \d/m);
});

t.test('brings koffi and nothing else', async (t) => {
  const { packages } = JSON.parse(
    readFileSync(join(project.path, 'package-lock.json'), 'utf8'),
  ) as {
    packages: Record<string, { optional?: boolean }>;
  };
  const names = Object.keys(packages).filter((name) => packages[name]?.optional !== true);
  t.same(names.sort(), ['', 'node_modules/koffi', 'node_modules/nodevmm']);
});

t.test('its entries share their classes, and the addon loads', async (t) => {
  project.write(
    'test.mjs',
    `import { UsageError, VirtualMachine } from 'nodevmm';
import { TestDriver } from 'nodevmm/testing';
import { defineDevice } from 'nodevmm/device';
import { kernels } from 'nodevmm/node-test';
const device = defineDevice({
  deviceId: 43,
  queues: { requestq: { handle: (request) => void request.write(Buffer.from('hello')) } },
});
const driver = new TestDriver(device);
console.log(String(Buffer.from(await driver.request('requestq', new Uint8Array(1), 5))));
try {
  driver.readConfig('absent');
} catch (error) {
  console.log(error.constructor.name, error instanceof UsageError);
}
console.log(typeof VirtualMachine.create);
try {
  kernels('5.10');
} catch (error) {
  console.log(error instanceof UsageError);
}
driver.close();
`,
  );
  const out = await project.run('node', 'test.mjs');
  t.equal(out, 'hello\nUsageError true\nfunction\ntrue\n');
});

const { require_module: requires } = process.features as { require_module?: boolean };
const skip = requires === true ? false : 'this Node.js cannot require modules';
t.test('require() loads it', { skip }, async (t) => {
  project.write('test.cjs', "console.log(typeof require('nodevmm').VirtualMachine.create)");
  t.equal(await project.run('node', 'test.cjs'), 'function\n');
});

t.test('npx starts the program', async (t) => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  t.equal(await project.run('npx', 'nodevmm', '--version'), `${version}\n`);
});

t.test('a device in a file says that it needs esbuild', async (t) => {
  const file = project.write('device.ts', 'export default 1;');
  const failed = await project.run('npx', 'nodevmm', 'device', 'test', file).catch(String);
  t.match(failed, /needs esbuild: .*; npm install esbuild$/m);
});

t.test('what `nodevmm device new` makes needs no checkout', async (t) => {
  await project.run('npx', 'nodevmm', 'device', 'new', 'my-device');
  t.ok(existsSync(join(project.path, 'my-device/device.ts')));
});

for (const version of ['5.4.5', '6.0.3']) {
  t.test(`its types serve TypeScript ${version}`, async (t) => {
    const packages = [`typescript@${version}`, '@types/node@20'];
    await project.add('--no-save', ...packages);
    const source = project.write('types.ts', TYPES);
    const tsc = join(project.path, 'node_modules/typescript/bin/tsc');
    for (const [module, resolution] of [
      ['nodenext', 'nodenext'],
      ['esnext', 'bundler'],
    ] as const) {
      const options = {
        ...{ noEmit: true, strict: true, target: 'es2022', lib: ['es2023', 'esnext.disposable'] },
        ...{ module, moduleResolution: resolution, types: ['node'] },
      };
      project.write('tsconfig.json', JSON.stringify({ compilerOptions: options, files: [source] }));
      const failed = (error: { stdout: string }): string => error.stdout;
      t.equal(await project.run('node', tsc, '-p', '.').catch(failed), '', resolution);
    }
  });
}

/** Each line that must not compile says so. */
const TYPES = `import { VirtualMachine, UsageError, type MachineOptions } from 'nodevmm';
import { defineDevice } from 'nodevmm/device';
import { TestDriver } from 'nodevmm/testing';
import { kernels, machineFor } from 'nodevmm/node-test';
import { test } from 'node:test';
for (const guestKernel of kernels('6.1', '6.12')) {
  test(guestKernel, async (t) => {
    const vm: VirtualMachine = await machineFor(t, { guestKernel, cpus: 2 }, { trace: true });
    await vm.exec(['true']);
    // @ts-expect-error: misspelled
    await machineFor(t, { memroy: 1 });
  });
}
export async function boot(options: MachineOptions): Promise<number> {
  await using vm = await VirtualMachine.create({ ...options, memory: 256 * 2 ** 20, cpus: 2 });
  await vm.start();
  const { exitCode, stdout } = await vm.exec(['uname', '-a']);
  const text: string = stdout.toString();
  // @ts-expect-error: misspelled
  await VirtualMachine.create({ ...options, memroy: 1 });
  // @ts-expect-error: a string is no number
  await VirtualMachine.create({ ...options, cpus: '2' });
  if (text === '') throw new UsageError('E_TEXT', 'no text');
  return exitCode;
}
const device = defineDevice({ deviceId: 43, queues: { q: { handle: (request) => void request.readableLength } } });
export const driver: TestDriver = new TestDriver(device);
`;
