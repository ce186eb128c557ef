/** What each guest image is made of. */

/** The content of an initramfs. */
export interface Recipe {
  /** One line for `guest list`. */
  readonly summary: string;
  /** The init script, below guests/. */
  readonly init: string;
  /** Modules by name; what they need comes along, and what the kernel has built in is left out. */
  readonly modules: readonly string[];
  /** Package of each program taken from the host. */
  readonly programs: Readonly<Record<string, string>>;
  /** Other files of the host, absolute. */
  readonly files: readonly string[];
}

const guestModules = [
  'virtio_pci',
  'virtio_mmio',
  'virtio_console',
  'virtio_iommu',
  'virtio_net',
  'virtio_blk',
  'virtio-rng',
  'virtio_balloon',
  'virtio_mem',
  'virtio_pmem',
  'nd_pmem',
  'virtio_scsi',
  'virtiofs',
  'vmw_vsock_virtio_transport',
  'pvpanic-mmio',
  'pvpanic-pci',
  'button',
  'evdev',
  'i6300esb',
  'ptp_kvm',
  'e1000',
  'ext4',
  'overlay',
  // For drivers in userland.
  'vfio-pci',
  'vfio_iommu_type1',
  'uio_pci_generic',
];

const tools = {
  // Busybox's shell prefers its own applets to the real tools.
  sh: 'dash',
  iperf3: 'iperf3',
  fio: 'fio',
  ethtool: 'ethtool',
  lspci: 'pciutils',
  setpci: 'pciutils',
  ip: 'iproute2',
  ss: 'iproute2',
  'mkfs.ext4': 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  // Busybox's knows no --zeroout.
  blkdiscard: 'util-linux',
};

export const recipes = {
  minimal: {
    summary: 'busybox shell, agent, virtio drivers',
    init: 'init/init',
    modules: guestModules,
    programs: {},
    files: [],
  },
  tools: {
    summary: 'minimal with iperf3, fio, ethtool, lspci, iproute2, e2fsprogs',
    init: 'init/init',
    modules: [...guestModules, 'e1000e', 'nvme', 'squashfs'],
    programs: tools,
    files: ['/usr/share/misc/pci.ids'],
  },
  lab: {
    summary: 'first stage of the lab',
    init: 'lab/init',
    modules: [
      'overlay',
      'virtio_pci',
      'virtio_console',
      'virtiofs',
      'kvm-amd',
      'tun',
      'vhost_net',
      'vhost_vsock',
      'loop',
      'bridge',
    ],
    programs: {},
    files: [],
  },
  'lab-intel': {
    summary: 'first stage of the lab with an Intel CPU',
    init: 'lab/init-intel',
    modules: ['kvm-intel', 'tun', 'vhost_net', 'vhost_vsock'],
    programs: {},
    files: [],
  },
} satisfies Record<string, Recipe>;

/** Names of the images. `lab` and `lab-intel` are the lab's own. */
export type GuestName = keyof typeof recipes;
/** Those for machines. */
export type GuestImageName = Exclude<GuestName, 'lab' | 'lab-intel'>;
export const GUEST_IMAGES: readonly GuestImageName[] = ['minimal', 'tools'];
