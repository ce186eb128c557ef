/** From an empty folder to a guest: the packed package, without install scripts and compiler. */
import t from 'tap';
import { PackageUser } from '../support/rigs/installed-package.ts';

t.setTimeout(900_000);
const { project } = await PackageUser.install();
t.teardown(() => project.close());

t.test('nodevmm run boots a guest', async (t) => {
  const out = await project.run('npx', 'nodevmm', 'run', '--lab', '--', 'uname', '-n');
  t.equal(out, 'nodevmm\n');
});

t.test('a program of the project boots one, and sees what the project has', async (t) => {
  project.write('word.txt', 'from the project');
  const program = project.write(
    'vm.mjs',
    `import { readFileSync } from 'node:fs';
import { VirtualMachine } from 'nodevmm';
const [kernel, initrd] = process.argv.slice(2);
const vm = await VirtualMachine.create({ kernel, initrd, memory: 256 * 2 ** 20 });
await vm.start();
const { stdout } = await vm.exec(['echo', readFileSync('word.txt', 'utf8')]);
console.log(String(stdout).trim());
await vm.close();
`,
  );
  const paths = await project.run('npx', 'nodevmm', 'guest', 'build');
  const out = await project.run(
    'npx',
    ...['nodevmm', 'lab', 'node', program, ...paths.trim().split('\n')],
  );
  t.equal(out, 'from the project\n');
});
