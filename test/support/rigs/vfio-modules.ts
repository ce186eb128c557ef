/** VFIO with device files and iommufd, which Debian's kernels have not: the same kernel's sources with other options. */

import { kernelSources } from '../../../bench/peers/kernel-source.ts';
import { buildModules } from '../../../src/guest/own-modules.ts';

const KBUILD = `
ccflags-y := -DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_VFIO_DEVICE_CDEV=1 -DCONFIG_INTERVAL_TREE_SPAN_ITER=1
obj-m := iommufd.o vfio.o vfio_iommu_type1.o vfio-pci-core.o vfio-pci.o
iommufd-y := device.o fault.o hw_pagetable.o io_pagetable.o ioas.o main.o pages.o vfio_compat.o span_iter.o
vfio-y := vfio_main.o device_cdev.o group.o vfio_iommufd.o container.o virqfd.o
vfio-pci-core-y := vfio_pci_core.o vfio_pci_intrs.o vfio_pci_rdwr.o vfio_pci_config.o
vfio-pci-y := vfio_pci.o vfio_pci_igd.o
`;
/** A part of the kernel's library that only iommufd uses; the rest of the file is in the kernel already. */
const SPAN_ITER = `
#include <linux/export.h>
#undef EXPORT_SYMBOL_GPL
#define EXPORT_SYMBOL_GPL(name)
#include "interval_tree.c"
`;
/** Under a name that is not that of a whole module. */
const VFIO_IOMMUFD = '#include "iommufd.c"\n';
const PCI = ['vfio_pci', 'vfio_pci_core', 'vfio_pci_intrs', 'vfio_pci_rdwr', 'vfio_pci_config'];
const PATHS = [
  ...[
    'vfio_main',
    'device_cdev',
    'group',
    'iommufd',
    'container',
    'virqfd',
    'vfio_iommu_type1',
  ].map((name) => `drivers/vfio/${name}.c`),
  ...[...PCI, 'vfio_pci_igd'].map((name) => `drivers/vfio/pci/${name}.c`),
  'drivers/vfio/vfio.h',
  'drivers/vfio/pci/vfio_pci_priv.h',
  'drivers/iommu/iommufd',
  'drivers/iommu/iommu-priv.h',
  'lib/interval_tree.c',
];
/** Those that need others come after them. */
const ORDER = ['iommufd', 'vfio', 'vfio_iommu_type1', 'vfio-pci-core', 'vfio-pci'];

/** Compiles them, once. @returns paths of the .ko files in the order in which they can be loaded */
export async function vfioModules(kernelVersion: string): Promise<string[]> {
  const own = { Kbuild: KBUILD, 'span_iter.c': SPAN_ITER, 'vfio_iommufd.c': VFIO_IOMMUFD };
  const folder = await kernelSources(kernelVersion, PATHS, own);
  const built = await buildModules(folder, kernelVersion);
  return ORDER.flatMap((name) => built.filter((path) => path.endsWith(`/${name}.ko`)));
}
