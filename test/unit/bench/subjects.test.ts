/** What is measured is what the row's name says. */
import t from 'tap';
import {
  BLK_DATAPATHS,
  BLK_SUBJECTS,
  NET_DATAPATHS,
  NET_SUBJECTS,
  RSS_SUBJECTS,
} from '../../../bench/subjects/all.ts';
import { machineOptions } from '../../../bench/subjects/nodevmm.ts';

import {
  MICROVM,
  Q35,
  Q35_E1000,
  Q35_IOMMU,
  Q35_IOMMU_STRICT,
  Q35_VHOST,
  qemuCommand,
} from '../../../bench/subjects/qemu.ts';
import { dealCards, type Subject } from '../../../bench/subjects/subject.ts';
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

t.test('virtio devices behind an IOMMU', async (t) => {
  const strict = qemuCommand(Q35_IOMMU_STRICT, SPEC, '/agent').join(' ');
  t.match(
    strict,
    /-append \S+.* more iommu\.strict=1 -device virtio-iommu-pci .*virtio-serial-pci/,
  );
  t.match(strict, /-device virtio-net-pci,netdev=net0,disable-legacy=on,iommu_platform=on$/);
  t.match(qemuCommand(Q35_IOMMU, SPEC, '/agent').join(' '), /iommu\.strict=0 /);
  t.notMatch(qemuCommand(Q35, SPEC, '/agent').join(' '), /iommu/);
  for (const [iommu, text] of [
    ['lazy', ' more iommu.strict=0'],
    ['strict', ' more iommu.strict=1'],
  ] as const) {
    const options = machineOptions(SPEC, { iommu });
    t.equal(options.iommu, true);
    t.ok(options.commandLine?.endsWith(text), options.commandLine ?? '');
    t.doesNotThrow(() => resolveOptions(options));
  }
  t.match(machineOptions(SPEC, {}), { iommu: false });
});

/** What serves, or takes the place of, a network interface and two disks. */
const ELSEWHERE = [
  { vdpa: '/dev/v0', disks: [{ path: '/d', direct: true, vdpa: '/dev/v1' }] },
  { vhostUser: '/s0', disks: [{ path: '/d', direct: true, vhostUser: '/s1' }] },
  { vfio: '0000:01:00.0' },
].map((more) => ({ kernel: '/k', initrd: '/i', memoryMiB: 512, ...more }));

t.test('QEMU’s devices that something else serves', (t) => {
  const [vdpa = '', vhostUser = '', vfio = ''] = ELSEWHERE.map((spec) =>
    qemuCommand(Q35, spec, '/agent').join(' '),
  );
  t.match(vdpa, /-netdev vhost-vdpa,id=net0,vhostdev=\/dev\/v0 -device virtio-net-pci,netdev=net0/);
  t.match(vdpa, /memory-backend=ram .*memory-backend-memfd,id=ram/);
  t.match(vhostUser, /socket,id=disk0,path=\/s1 -device vhost-user-blk-pci,chardev=disk0/);
  t.match(vfio, /-device vfio-pci,host=0000:01:00\.0$/);
  t.notMatch(vfio, /memory-backend/);
  const spec = { kernel: '/k', initrd: '/i', memoryMiB: 512, vdpa: '/dev/v0' } as const;
  const hardware = qemuCommand(Q35, { ...spec, vdpaInHardware: true }, '/agent').join(' ');
  t.match(hardware, /-netdev vhost-vdpa,id=net0,vhostdev=\/dev\/v0 /);
  t.notMatch(hardware, /memory-backend/);
  t.end();
});

t.test('nodevmm’s devices that something else serves, and those that poll', (t) => {
  const [vdpa, vhostUser, vfio] = ELSEWHERE.map((spec) => machineOptions(spec, { ring: {} }));
  t.match(vdpa, { nets: [{ vdpa: '/dev/v0' }], disks: [{ vdpa: '/dev/v1' }] });
  t.match(vhostUser, {
    nets: [{ vhostUser: { socket: '/s0' } }],
    disks: [{ vhostUser: { socket: '/s1' } }],
  });
  t.match(vfio, { nets: [], disks: [], vfio: [{ address: '0000:01:00.0', bind: true }] });
  for (const options of [vdpa, vhostUser, vfio]) {
    if (options !== undefined) t.doesNotThrow(() => resolveOptions(options));
  }
  const disks = [{ path: '/d', direct: true }];
  const polls = machineOptions({ ...SPEC, disks }, { poll: 'always' });
  t.match(polls, { nets: [{ poll: 'always' }], disks: [{ poll: 'always' }] });
  t.end();
});

t.test('functions of the host: one for each row that passes one', (t) => {
  const boot = () => Promise.reject(new Error('no guest'));
  const rows: Subject[] = [
    { name: 'a', reference: false, boot },
    { name: 'b', reference: false, passes: 'any', boot },
    { name: 'c', reference: false, passes: 'any', boot },
    { name: 'd', reference: false, passes: 'e1000e', boot },
    { name: 'e', reference: false, passes: 'virtio', boot },
  ];
  const omitted: string[][] = [];
  const context = { omit: (...both: [string, string]) => void omitted.push(both) };
  const idOf = (card: string): string => (card === 'y' ? '8086:10d3' : '10ec:8168');
  const { subjects, cards } = dealCards(rows, ['y', 'x'], context, 'none left', idOf);
  t.same(
    subjects.map((subject) => [subject.name, cards.get(subject)]),
    [
      ['a', undefined],
      ['b', 'x'],
      ['d', 'y'],
    ],
    'those that want one of a kind come first',
  );
  t.same(omitted, [
    ['c', 'none left'],
    ['e', 'none left, of the kind virtio'],
  ]);
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
  for (const rows of [NET_SUBJECTS, BLK_SUBJECTS, RSS_SUBJECTS, NET_DATAPATHS, BLK_DATAPATHS]) {
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

t.test('the datapaths are rows of the other groups, none of them a variant', (t) => {
  const nodevmm = (rows: typeof NET_DATAPATHS): string[] =>
    rows.filter(({ reference }) => !reference).map(({ name }) => name.replace(/^nodevmm ?/, ''));
  t.same(nodevmm(NET_DATAPATHS), [
    ...['', 'vhost', 'vhost-user', 'poll', 'vdpa', 'vfio', 'vfio e1000e', 'vp_vdpa'],
    ...['userland driver', 'e1000'],
  ]);
  t.same(nodevmm(BLK_DATAPATHS), ['', 'poll', 'vhost-user', 'vdpa', 'vfio']);
  t.notOk([...NET_DATAPATHS, ...BLK_DATAPATHS].some(({ variant }) => variant));
  for (const { name } of NET_DATAPATHS)
    t.ok(
      NET_SUBJECTS.some((row) => row.name === name),
      name,
    );
  t.end();
});
