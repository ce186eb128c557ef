/** The subjects of each group; those that are added here appear in the tables. */
import { nodevmm } from './nodevmm.ts';
import { MICROVM, MICROVM_PCI, Q35, Q35_E1000, Q35_VHOST, qemu } from './qemu.ts';
import { served } from './served.ts';
import { E1000_KERNEL, lacksVhostNet, type Subject } from './subject.ts';

const PEER = 'QEMU q35';
const PEER_VHOST = 'QEMU q35 vhost';
const PEER_VHOST_USER = 'QEMU q35 vhost-user';
const PEER_E1000 = 'QEMU q35 e1000';
const DEFAULT = nodevmm('nodevmm', { peer: PEER });
/** What a default contributes: measured on request only. */
const VARIANTS: readonly Subject[] = [
  nodevmm('nodevmm notify-memory', { peer: PEER, variant: true, notify: 'memory' }),
  nodevmm('nodevmm notify-io', { peer: PEER, variant: true, notify: 'io' }),
  nodevmm('nodevmm packed', { peer: PEER, variant: true, ring: { packed: true } }),
];

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
  served(
    nodevmm('nodevmm vhost-user kicks', { peer: PEER_VHOST_USER, variant: true }),
    '--no-poll',
  ),
  served(qemu(PEER_VHOST_USER, Q35)),
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
];

/** For memory. */
export const RSS_SUBJECTS: readonly Subject[] = [DEFAULT, QEMU_Q35, QEMU_MICROVM, QEMU_MICROVM_PCI];
