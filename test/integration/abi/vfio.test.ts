/** VFIO structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/vfio.ts';
import { compilerMissing, runC, testHeader } from './c-program.ts';

const structs = {
  vfio_group_status: abi.vfio_group_status,
  vfio_region_info: abi.vfio_region_info,
  vfio_info_cap_header: abi.vfio_info_cap_header,
  vfio_region_info_cap_sparse_mmap: abi.vfio_region_info_cap_sparse_mmap,
  vfio_region_sparse_mmap_area: abi.vfio_region_sparse_mmap_area,
  vfio_irq_info: abi.vfio_irq_info,
  vfio_irq_set: abi.vfio_irq_set,
  vfio_iommu_type1_dma_map: abi.vfio_iommu_type1_dma_map,
  vfio_pci_dependent_device: abi.vfio_pci_dependent_device,
  vfio_iommu_type1_dma_unmap: abi.vfio_iommu_type1_dma_unmap,
};
/** `size` is a layout's own. */
const path = (field: string): string => (field === 'size_' ? 'size' : field);

testHeader(t, ['linux/ioctl.h', 'linux/vfio.h'], structs, abi, path);

const headers = ['linux/vfio.h'];
// Its size depends on the header's version.
t.test('struct vfio_device_info', { skip: compilerMissing(headers) }, async (t) => {
  const fields = ['num_regions', 'num_irqs', 'cap_offset'] as const;
  const prints = fields.map(
    (field) => `printf("%zu\\n", offsetof(struct vfio_device_info, ${field}));`,
  );
  t.same(
    runC(headers, prints.join('\n')),
    fields.map((field) => String(abi.vfio_device_info[field].offset)),
  );
});
