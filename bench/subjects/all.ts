/** The subjects of each group; those that are added here appear in the tables. */
import { nodevmm } from './nodevmm.ts';
import {
  MICROVM,
  MICROVM_PCI,
  Q35,
  Q35_E1000,
  Q35_IOMMU,
  Q35_IOMMU_STRICT,
  Q35_VHOST,
  qemu,
} from './qemu.ts';
import { overVdpa, served } from './served.ts';
import { E1000_KERNEL, lacksVfio, lacksVhostNet, type Subject } from './subject.ts';
import { inUserland, USR } from './userland.ts';
import { overVpVdpa } from './vp-vdpa.ts';

const PEER = 'QEMU q35';
const PEER_VHOST = 'QEMU q35 vhost';
const PEER_VHOST_USER = 'QEMU q35 vhost-user';
const PEER_E1000 = 'QEMU q35 e1000';
const PEER_VDPA = 'QEMU q35 vdpa';
const PEER_VFIO = 'QEMU q35 vfio';
const PEER_VFIO_E1000E = 'QEMU q35 vfio e1000e';
const PEER_VP_VDPA = 'QEMU q35 vp_vdpa';
const PEER_IOMMU = 'QEMU q35 iommu';
const PEER_IOMMU_STRICT = 'QEMU q35 iommu strict';
const DEFAULT = nodevmm('nodevmm', { peer: PEER });
/** What a default contributes: measured on request only. */
const VARIANTS: readonly Subject[] = [
  nodevmm('nodevmm notify-memory', { peer: PEER, variant: true, notify: 'memory' }),
  nodevmm('nodevmm notify-io', { peer: PEER, variant: true, notify: 'io' }),
  nodevmm('nodevmm packed', { peer: PEER, variant: true, ring: { packed: true } }),
];

/** Its thread never sleeps. */
const POLL = nodevmm('nodevmm poll', { peer: PEER, variant: true, poll: 'always', rests: true });
/** A PCI function of the host in the guest, with its own driver. */
const VFIO = nodevmm('nodevmm vfio', {
  ...{ peer: PEER_VFIO, variant: true, passes: 'any' },
  lacking: lacksVfio,
});
const QEMU_VFIO: Subject = { ...qemu(PEER_VFIO, Q35, 'any'), variant: true };

const QEMU_Q35 = qemu(PEER, Q35);
const QEMU_MICROVM = qemu('QEMU microvm', MICROVM);
const QEMU_MICROVM_PCI = qemu('QEMU microvm PCI', MICROVM_PCI);

/** For the network: each of nodevmm's rows next to the QEMU row whose queues are served alike. */
export const NET_SUBJECTS: readonly Subject[] = [
  DEFAULT,
  ...VARIANTS,
  QEMU_Q35,
  { ...QEMU_MICROVM, variant: true },
  nodevmm('nodevmm vhost', { peer: PEER_VHOST, nic: 'vhost', lacking: lacksVhostNet }),
  qemu(PEER_VHOST, Q35_VHOST),
  served(nodevmm('nodevmm vhost-user', { peer: PEER_VHOST_USER })),
  served(nodevmm('nodevmm vhost-user kicks', { peer: PEER_VHOST_USER, variant: true }), 'poll=off'),
  served(qemu(PEER_VHOST_USER, Q35)),
  POLL,
  overVdpa(nodevmm('nodevmm vdpa', { peer: PEER_VDPA, variant: true })),
  { ...overVdpa(qemu(PEER_VDPA, Q35)), variant: true },
  VFIO,
  QEMU_VFIO,
  nodevmm('nodevmm vfio e1000e', {
    ...{ peer: PEER_VFIO_E1000E, variant: true, passes: 'e1000e', kernel: E1000_KERNEL },
    lacking: lacksVfio,
  }),
  { ...qemu(PEER_VFIO_E1000E, Q35, 'e1000e'), variant: true },
  overVpVdpa(nodevmm('nodevmm vp_vdpa', { peer: PEER_VP_VDPA, variant: true })),
  { ...overVpVdpa(qemu(PEER_VP_VDPA, Q35)), variant: true },
  nodevmm('nodevmm iommu', { peer: PEER_IOMMU, variant: true, iommu: 'lazy' }),
  nodevmm('nodevmm iommu strict', { peer: PEER_IOMMU_STRICT, variant: true, iommu: 'strict' }),
  { ...qemu(PEER_IOMMU, Q35_IOMMU), variant: true },
  { ...qemu(PEER_IOMMU_STRICT, Q35_IOMMU_STRICT), variant: true },
  inUserland(nodevmm('nodevmm userland driver', { peer: PEER, variant: true, shares: [USR] })),
  nodevmm('nodevmm e1000', { peer: PEER_E1000, nic: 'e1000', kernel: E1000_KERNEL }),
  qemu(PEER_E1000, Q35_E1000),
];

/** For disks. */
export const BLK_SUBJECTS: readonly Subject[] = [
  DEFAULT,
  ...VARIANTS,
  nodevmm('nodevmm sync', { peer: PEER, variant: true, engine: 'sync' }),
  nodevmm('nodevmm io_uring', { peer: PEER, variant: true, engine: 'io_uring' }),
  QEMU_Q35,
  QEMU_MICROVM,
  POLL,
  served(nodevmm('nodevmm vhost-user', { peer: PEER_VHOST_USER, variant: true })),
  { ...served(qemu(PEER_VHOST_USER, Q35)), variant: true },
  // QEMU 7.2 has no disks by vhost-vdpa without libblkio.
  overVdpa(nodevmm('nodevmm vdpa', { peer: PEER, variant: true })),
  VFIO,
  QEMU_VFIO,
];

/** Those of a list that differ in who serves the device, in nothing else. */
const datapaths = (rows: readonly Subject[]): readonly Subject[] => {
  const names = [
    undefined,
    'poll',
    'vhost',
    'vhost-user',
    'vdpa',
    'vfio',
    'vfio e1000e',
    'vp_vdpa',
    'userland driver',
    'e1000',
  ];
  const wanted = ['nodevmm', PEER].flatMap((vmm) =>
    names.map((name) => [vmm, name].filter(Boolean).join(' ')),
  );
  return rows
    .filter(({ name }) => wanted.includes(name))
    .map((row) => ({ ...row, variant: false }));
};
export const NET_DATAPATHS = datapaths(NET_SUBJECTS);
export const BLK_DATAPATHS = datapaths(BLK_SUBJECTS);

/** For memory. */
export const RSS_SUBJECTS: readonly Subject[] = [DEFAULT, QEMU_Q35, QEMU_MICROVM, QEMU_MICROVM_PCI];
