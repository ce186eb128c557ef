/** The example of README.md: a real Linux machine as a fixture of a test. */
import t from 'tap';
import { buildGuest } from '../../src/guest/guests.ts';
import { VirtualMachine } from '../../src/index.ts';

t.test('a virtual machine as a fixture', async (t) => {
  const { kernel, initrd } = await buildGuest('minimal');
  await using vm = await VirtualMachine.create({ kernel, initrd, memory: 256 * 2 ** 20 });
  await vm.start();

  const { stdout, exitCode } = await vm.exec(['uname', '-s']);
  t.equal(stdout.toString(), 'Linux\n');
  t.equal(exitCode, 0);

  const sorted = await vm.exec(['sort'], { stdin: 'b\na\n' });
  t.equal(sorted.stdout.toString(), 'a\nb\n');
});
