/** The command lines of the lab. */
import t from 'tap';
import { qemuCommand, virtiofsdCommand } from '../../../src/lab/qemu-command.ts';

const shape = {
  memoryMiB: 4096,
  cpus: 3,
  machine: 'kernel-irqchip=split',
  qemuArgs: ['-device', 'e1000e'],
  kernelArgs: 'intel_iommu=on',
};
const share = { tag: 'root', path: '/', readOnly: true, still: true };
const fds = { kernel: 3, initrd: 4, agent: 5, shares: [6] };

t.test('the machine is as requested', async (t) => {
  const line = qemuCommand('qemu', shape, [share], fds).join(' ');
  for (const part of [
    '-M q35,kernel-irqchip=split',
    '-smp 3',
    '-m 4096M',
    'size=4096M,share=on',
    '-device e1000e',
    'socket,id=root,fd=6',
    'socket,id=agent,fd=5',
    '-kernel /dev/fd/3 -initrd /dev/fd/4',
    '-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
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
  t.match(virtiofsdCommand('v', share, '/m/share', 3).join(' '), /cache=always/);
  const project = { ...share, path: '/a,b', still: false };
  t.match(
    virtiofsdCommand('v', project, '/m/a,b', 3).join(' '),
    /--fd=3 -o source=\/m\/a\\,b,cache=auto/,
  );
});
