/** What is measured is what the row's name says. */
import t from 'tap';
import { BLK_SUBJECTS, NET_SUBJECTS, RSS_SUBJECTS } from '../../../bench/subjects/all.ts';
import { machineOptions } from '../../../bench/subjects/nodevmm.ts';
import { MICROVM, Q35, Q35_E1000, Q35_VHOST, qemuCommand } from '../../../bench/subjects/qemu.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';

const SPEC = { kernel: '/k', initrd: '/i', memoryMiB: 512, tap: 'tap7', append: 'more' };
/** With a backend in place of the tap. */
const BEHIND = { kernel: '/k', initrd: '/i', memoryMiB: 512, vhostUser: '/s' };

t.test('QEMU’s network interfaces', (t) => {
  const line = (machine: typeof Q35): string => qemuCommand(machine, SPEC, '/agent').join(' ');
  t.match(line(Q35), /vhost=off -device virtio-net-pci,netdev=net0$/);
  t.match(line(Q35_VHOST), /vhost=on -device virtio-net-pci,netdev=net0$/);
  t.match(line(Q35_E1000), /vhost=off -device e1000,netdev=net0$/);
  t.match(line(MICROVM), /vhost=off -device virtio-net-device,netdev=net0$/);
  t.match(line(Q35), /-append console=hvc0 quiet panic=-1 more /);
  t.notMatch(line(Q35), /memory-backend/);
  const behind = qemuCommand(Q35, BEHIND, '/agent').join(' ');
  t.match(behind, /-M q35,accel=kvm,memory-backend=ram /);
  t.match(behind, /-object memory-backend-memfd,id=ram,size=512M,share=on /);
  t.match(
    behind,
    /path=\/s -netdev vhost-user,id=net0,chardev=[\w-]+ -device virtio-net-pci,netdev=net0$/,
  );
  t.end();
});

t.test('nodevmm’s', (t) => {
  const nets = (variant: Parameters<typeof machineOptions>[1]) =>
    machineOptions(SPEC, variant).nets;
  t.same(nets({}), [{ tap: 'tap7', ring: {} }]);
  t.same(nets({ nic: 'vhost' }), [{ tap: 'tap7', ring: {}, vhost: 'on' }]);
  t.same(nets({ nic: 'e1000' }), [{ tap: 'tap7', model: 'e1000' }]);
  t.same(nets({ ring: { packed: true } }), [{ tap: 'tap7', ring: { packed: true } }]);
  for (const nic of ['virtio', 'vhost', 'e1000'] as const) {
    t.doesNotThrow(() => resolveOptions(machineOptions(SPEC, { nic })), nic);
  }
  const behind = machineOptions(BEHIND, {});
  t.match(behind, { nets: [{ vhostUser: { socket: '/s' } }] });
  t.doesNotThrow(() => resolveOptions(behind));
  t.notMatch(machineOptions(SPEC, {}).nets, [{ vhostUser: {} }]);
  t.end();
});

t.test('names are unique, and every peer is a row to be set against', (t) => {
  for (const rows of [NET_SUBJECTS, BLK_SUBJECTS, RSS_SUBJECTS]) {
    const names = rows.map(({ name }) => name);
    t.equal(new Set(names).size, names.length);
    t.notOk(
      names.some((name) => name.includes(',')),
      'a comma parts names in --subjects',
    );
    for (const { name, peer, reference } of rows) {
      if (reference) t.equal(peer, undefined, name);
      else t.ok(rows.find((other) => other.name === peer)?.reference, name);
    }
  }
  t.end();
});
