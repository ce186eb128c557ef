/** The examples of README.md and docs/vsock.md: a real Linux machine as a fixture of a test. */
import { once } from 'node:events';
import { connect } from 'node:net';
import path from 'node:path';
import t from 'tap';
import { buildGuest } from '../../src/guest/guests.ts';
import { VirtualMachine } from '../../src/index.ts';
import { testFolder } from '../support/rigs/files.ts';

t.test('a virtual machine as a fixture', async (t) => {
  await using vm = await VirtualMachine.create({
    guest: 'minimal',
    guestKernel: '6.1',
    memory: 256 * 2 ** 20,
    check: true,
  });
  await vm.start();

  const { stdout, exitCode } = await vm.exec(['uname', '-sr']);
  t.match(stdout.toString(), /^Linux 6\.1\./);
  t.equal(exitCode, 0);

  const sorted = await vm.exec(['sort'], { input: 'b\na\n' });
  t.equal(sorted.stdout.toString(), 'a\nb\n');
  t.same(vm.breaches, []);
});

t.test('a program of the host talks to one of the guest', async (t) => {
  const folder = testFolder(t);
  const file = path.join(folder, 'vm.sock');
  const { kernel, initrd } = await buildGuest('minimal');
  await using vm = await VirtualMachine.create({
    kernel,
    initrd,
    vsock: { cid: 3, path: file },
    check: true,
  });
  await vm.start();
  const echo = vm.spawn(['nodevmm-agent', 'vsock', 'listen', '52', 'cat']);
  await once(echo.stdout, 'data');

  const socket = connect(file);
  socket.write('CONNECT 52\n');
  const [answer] = await once(socket, 'data');
  t.match(answer.toString(), /^OK \d+\n$/);
  socket.write('hello\n');
  const [echoed] = await once(socket, 'data');
  t.equal(echoed.toString(), 'hello\n');
  t.same(vm.breaches, []);
  socket.destroy();
});
