/** The command lines of the lab. */
import t from 'tap';
import { qemuCommand, virtiofsdCommand } from '../../../src/lab/qemu-command.ts';

const guest = {
  name: 'lab',
  kernelVersion: '6.12',
  kernel: '/k',
  initrd: '/i',
  initrdSize: 1,
  hash: '',
};
const shape = {
  memoryMiB: 4096,
  cpus: 3,
  machine: 'kernel-irqchip=split',
  qemuArgs: ['-device', 'e1000e'],
  kernelArgs: 'intel_iommu=on',
};
const share = { tag: 'root', path: '/', socket: '/s/root', still: true };

t.test('the machine has what was asked for', async (t) => {
  const line = qemuCommand('qemu', guest, shape, [share], '/s/agent').join(' ');
  for (const part of [
    '-M q35,kernel-irqchip=split',
    '-smp 3',
    '-m 4096M',
    'size=4096M,share=on',
    '-device e1000e',
    'socket,id=root,path=/s/root',
    'chardev=root,tag=root',
    'name=org.nodevmm.agent',
    'mitigations=off',
    'maxcpus=1',
    'intel_iommu=on',
    '+svm',
  ]) {
    t.ok(line.includes(part), part);
  }
});

t.test('what the host leaves alone is cached for good, the rest is looked at again', async (t) => {
  t.match(virtiofsdCommand('v', share).join(' '), /cache=always/);
  const project = { ...share, path: '/a,b', still: false };
  t.match(virtiofsdCommand('v', project).join(' '), /source=\/a\\,b,cache=auto/);
});
