/** The subjects of each group; what is added here shows in the tables. */
import { nodevmm } from './nodevmm.ts';
import { MICROVM, MICROVM_PCI, Q35, qemu } from './qemu.ts';
import type { Subject } from './subject.ts';

const DEFAULT = nodevmm('nodevmm', 'as `nodevmm run` has it by default');
const NOTIFY_MEMORY = nodevmm('nodevmm, notify memory', 'drivers kick by MMIO', {
  notify: 'memory',
});
const NOTIFY_IO = nodevmm('nodevmm, notify io', 'drivers kick by I/O ports', { notify: 'io' });
const PACKED = nodevmm('nodevmm, packed', 'packed virtqueues', { ring: { packed: true } });
const SYNC = nodevmm('nodevmm, sync', 'one system call a request', { engine: 'sync' });
const IO_URING = nodevmm('nodevmm, io_uring', 'all requests by io_uring', { engine: 'io_uring' });

const QEMU_Q35 = qemu('QEMU q35', '-M q35, virtio over PCI', Q35);
const QEMU_MICROVM = qemu('QEMU microvm', '-M microvm, virtio over MMIO', MICROVM);
const QEMU_MICROVM_PCI = qemu('QEMU microvm PCI', '-M microvm,pcie=on', MICROVM_PCI);

/** For the network. */
export const NET_SUBJECTS: readonly Subject[] = [
  DEFAULT,
  NOTIFY_MEMORY,
  NOTIFY_IO,
  PACKED,
  QEMU_Q35,
  QEMU_MICROVM,
];

/** For disks. */
export const BLK_SUBJECTS: readonly Subject[] = [
  DEFAULT,
  NOTIFY_MEMORY,
  NOTIFY_IO,
  PACKED,
  SYNC,
  IO_URING,
  QEMU_Q35,
  QEMU_MICROVM,
];

/** For memory. */
export const RSS_SUBJECTS: readonly Subject[] = [DEFAULT, QEMU_Q35, QEMU_MICROVM, QEMU_MICROVM_PCI];
