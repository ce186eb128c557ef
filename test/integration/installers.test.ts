/** Installers that run no scripts of packages by default: npm 12, and pnpm 10 with its strict node_modules. */
import t from 'tap';
import { PackageUser } from '../support/rigs/installed-package.ts';
import { INSTALLERS, installersMissing } from '../support/rigs/installers.ts';

t.setTimeout(600_000);

const skip = await installersMissing();

const PROGRAM = `import { doctor, UsageError, VirtualMachine, type DoctorRow } from 'nodevmm';
import { defineDevice } from 'nodevmm/device';
import { TestDriver } from 'nodevmm/testing';
const device = defineDevice({
  deviceId: 43,
  queues: { requestq: { handle: (request) => void request.write(Buffer.from('hello')) } },
});
const driver: TestDriver = new TestDriver(device);
console.log(Buffer.from(await driver.request('requestq', new Uint8Array(1), 5)).toString());
driver.close();
const rows: DoctorRow[] = doctor();
console.log(rows.some(({ what }) => what === 'KVM'));
await VirtualMachine.create({ guest: 'minimal', cpus: 99 }).catch((error: unknown) => {
  console.log(error instanceof UsageError && error.code);
});
`;

for (const [name, installer] of Object.entries(INSTALLERS)) {
  t.test(`${name}: installs, compiles, runs`, { skip }, async (t) => {
    const { project } = await PackageUser.install(installer);
    t.teardown(() => project.close());
    await project.add('typescript@6.0.3', '@types/node@24');
    t.match(await project.run('node', ...installer.blocked), /^ +koffi\b/m, 'no script was run');
    const options = {
      ...{ noEmit: true, strict: true, target: 'es2023', lib: ['es2023', 'esnext.disposable'] },
      ...{ module: 'nodenext', types: ['node'] },
    };
    project.write('main.ts', PROGRAM);
    const config = { compilerOptions: options, files: ['main.ts'] };
    project.write('tsconfig.json', JSON.stringify(config));
    const failed = (error: { stdout: string }): string => error.stdout;
    const tsc = 'node_modules/typescript/bin/tsc';
    t.equal(await project.run('node', tsc, '-p', '.').catch(failed), '');
    t.equal(await project.run('node', 'main.ts'), 'hello\ntrue\nE_CPUS\n');
    t.match(await project.run('node_modules/.bin/nodevmm', '--version'), /^\d+\.\d+\.\d+\n$/);
  });
}
