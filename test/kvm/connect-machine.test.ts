/** Attaching to a machine of this process as other processes do, with a kernel of a few bytes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { connectMachine } from '../../src/machine/control/remote-machine.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { elfKernel, HALT, KERNEL_GPA, out, print } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);
process.env.XDG_RUNTIME_DIR = folder;

t.test('a named machine is started, seen and ended from elsewhere', { skip }, async (t) => {
  const kernel = join(folder, 'kernel');
  const bytes = Uint8Array.from([...print('here I am\n'), ...out(0x605, 0x34), ...HALT]);
  writeFileSync(
    kernel,
    elfKernel({ segments: [{ paddr: KERNEL_GPA, bytes }], pvhEntry: KERNEL_GPA }),
  );
  await using vm = await VirtualMachine.create({ kernel, memory: 64 * MiB, name: 'web' });
  await t.rejects(VirtualMachine.create({ kernel, memory: 64 * MiB, name: 'web' }), {
    code: 'E_NAME',
  });
  await using remote = await connectMachine('web');
  t.equal(remote.state, 'created');
  let output = '';
  remote.serial.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  // The copy begins once the stream is open.
  await new Promise((resolve) => remote.serial.once('resume', resolve));
  await remote.metrics();
  await remote.start();
  t.equal((await remote.wait()).reason, 'power-off');
  t.equal(remote.state, 'ended');
  t.equal((await vm.wait()).reason, 'power-off');
  await vm.close();
  t.match(output, /here I am/);
  await t.rejects(connectMachine('web'), { code: 'E_NAME' });
});
